"""A number and what follows it: units and nouns leave it as it is, other words turn it into another number."""

import pytest

from regime_w import extract_answer, extract_gold

OTHERS = [
    # As reported.
    "3万",
    "3億",
    "3 млн",
    "3 Millionen",
    "3 tausend",
    "5₂",
    "3xy",
    "3 ab",
    "3 elevenths",
    "3 multiplied by itself",
    "3 square",
    "5 grand",
    "$5 MM",
    "$2 bn",
    "3 tens",
    r"5\mathrm{i}",
    "3⅟4",
    "3 doz",
    "1990s",
    "2h30m",
    "17h30",
    "2024-05-18",
    # Neighbours.
    "3 万",
    "3千",
    "3亿元",
    "3만",
    "3조",
    "3百万",
    "3半",
    "3 тысячи",
    "3 миллиона",
    "3 Mio. Euro",
    "3 Milliarden",
    "3 mille",
    "3 milliards",
    "3 millones",
    "3 mil",
    "3 miljoen",
    "3 tys.",
    "3 लाख",
    "3 करोड़",
    "3 ألف",
    "3 zillion",
    "3 quintillion",
    "3Ⅷ",
    "3①",
    "3₁₀",
    "3ab",
    "3abc",
    "3xyz",
    "3AB",
    "3 e",
    "3 b",
    "3 T",
    r"5\text{i}",
    r"5\mathit{x}",
    "5θ",
    "5 π",
    "3 fifteenths",
    "3 twentieths",
    "3 twenty-fifths",
    "1 eleventh",
    "3 hundredths",
    "3 divided by two",
    "3 times itself",
    "3 raised to the fifth",
    "3 increased by half",
    "3 cubic",
    "5 grand a month",
    "$5 mil",
    "$5 bil",
    "3 twenties",
    "3 ones",
    "1990's",
    "1800s",
    "2m30s",
    "5ft10",
    "12-05-2024",
    r"18 \times x",
    "18 · x",
    "18 + tax",
    "18 - x",
]
SAME = [
    "18 cm",
    "18cm",
    "18 CM",
    "18 mm",
    "18 ml",
    "18 oz.",
    "18 ft",
    "18 in.",
    "18 mi/h",
    "18 °C",
    "18 C",
    "18 V",
    "18 kW",
    "18 GB",
    "18 hr",
    "18 s",
    "18h",
    "18d",
    "18m²",
    "18 m³",
    "18 square feet",
    "18 sq ft",
    "18 sq. ft.",
    "18 BC",
    "18 TV",
    "18 cubic meters",
    "18 squares",
    "18 grand pianos",
    "18 T-shirts",
    "18 e-mails",
    "18 TV sets",
    "18 TVs",
    "18 AA batteries",
    "18 a day",
    "18 U.S. dollars",
    "18USD",
    "18 GBP",
    "18apples",
    "18 cats",
    "18 months",
    "18 paths",
    "18 tenth graders",
    "18 tenors",
    "18 tents",
    "18 onesies",
    "18 billiard balls",
    "18 militants",
    "18 mills",
    "18 milkshakes",
    "18 Milligramm",
    "18 jalapeños",
    "18 个",
    "18元",
    "18千克",
    "18 яблок",
    "18 рублей",
    "18 사과",
    "18조각",
    "60s",
    "3600s",
    "18 increased seats",
    "18 raised beds",
    "18 times",
    "18 times more",
    "18 dozen",
]


def places(number: str) -> list[str]:
    return [f"#### {number}", f"The answer is {number}", rf"So \boxed{{{number}}}, in 3 steps", f"It is {number}"]  # fmt: skip


@pytest.mark.parametrize("number", OTHERS)
def test_what_follows_makes_another_number(number: str) -> None:
    assert [*map(extract_answer, places(number))] == [None] * 4
    assert extract_gold(number) is None


@pytest.mark.parametrize("number", SAME)
def test_what_follows_is_a_unit_or_a_noun(number: str) -> None:
    value = {"60s": "60", "3600s": "3600"}.get(number, "18")
    assert [*map(extract_answer, places(number))] == [value] * 4


FORMS = [
    # As reported: right, and not read.
    (r"\boxed{18 \mathrm{~cm}}", "18"),
    ("#### 42 (forty-two)", "42"),
    ("#### 7 / 2", "3.5"),
    # Neighbours.
    (r"#### 18~\mathrm{cm}", "18"),
    (r"#### 18\,\mathrm{~m}^{2}", "18"),
    (r"#### $18 \text{~apples~left}$", "18"),
    ("#### ~18", None),
    (r"#### \text{~}18", None),
    ("#### ~ $18", None),
    ("#### 18 ~ 20", None),
    ("#### 3~5", None),
    ("#### 42 (forty two)", "42"),
    ("#### 42 (Forty-two dollars)", "42"),
    ("#### 42 apples (forty-two)", "42"),
    ("#### 7 (seven)", "7"),
    ("#### 0 (zero)", "0"),
    ("#### 30 (thirty)", "30"),
    ("#### -42 (forty-two)", "-42"),
    ("#### $1,142 (one thousand, one hundred and forty-two dollars)", "1142"),
    ("#### 2,000,000 (two million)", "2000000"),
    ("#### 42 (forty-three)", None),
    ("#### 42 (forty-two thousand)", None),
    ("#### 42 (forty-two and a half)", None),
    ("#### 0.5 (one half)", None),
    ("#### 42 forty-two", None),
    ("#### x = 7 / 2", "3.5"),
    ("#### -1 / 3", "-1/3"),
    ("#### 1,000 / 3", "1000/3"),
    (r"\boxed{7 / 2}", "3.5"),
    ("It is 7 / 2.", "3.5"),
    # Work that is not done.
    ("#### 36 / 2", None),
    ("#### 12 / 8", None),
    ("#### 18 / 1", None),
    ("#### 7 / 0", None),
    ("#### 1 3 / 2", None),
    ("#### 3 * 7 / 2", None),
    ("#### 7 / 2 / 3", None),
    ("It is 3 / 4 / 2024", None),
    ("It is 36 / 2", None),
]


@pytest.mark.parametrize(("text", "answer"), FORMS, ids=repr)
def test_forms_of_one_number(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer
    if text.startswith("#### "):
        assert extract_gold(text) == answer


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit", ["3 ", "3a", "3万", "3 / ", "(a ", "a-", "3 mil", "~", "₂", "twenty "]
)
@pytest.mark.parametrize("end", ["", "!", " 3"])
def test_hostile_continuations_end(unit: str, end: str) -> None:
    for _ in range(20):
        line = "3" + (unit * 300)[:290] + end
        for before in ("#### ", "", "The answer is "):
            extract_answer(before + line)
    extract_answer(unit * (300_000 // len(unit)) + end)
