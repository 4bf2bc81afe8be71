"""Texts: exact match after normalisation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_w.answer_types.positions import MAX_ANSWER_CHARS
from regime_w.answer_types.text import Text, normalised

TEXT = Text()

EQUAL = [
    ("#### Paris", "Paris"),
    ("#### paris", "Paris"),
    ("#### PARIS.", "Paris"),
    ("####   Paris  ", "Paris"),
    ("####\nParis", "Paris"),
    ("#### **Paris**", "Paris"),
    ("#### *Paris*", "Paris"),
    ("#### `Paris`", "Paris"),
    ('#### "Paris"', "Paris"),
    ("#### “Paris”", "Paris"),
    ("#### $Paris$", "Paris"),
    ("#### \\text{Paris}", "Paris"),
    ("#### \\boxed{Paris}", "Paris"),
    ("So \\boxed{\\text{Paris}}.", "Paris"),
    ("#### Answer: Paris", "Paris"),
    ("#### The answer is Paris.", "Paris"),
    ("#### Final Answer\n\nParis", "Paris"),
    ("The answer is Paris.", "Paris"),
    ("The answer is Paris. It is in France.", "Paris"),
    ("The answer is St. Louis. It is far.", "St. Louis"),
    ("the answer is: Paris", "Paris"),
    ("It is in France.\n#### Paris\nThat is it.", "Paris"),
    ("#### Rome\n#### Paris", "Paris"),
    ("Paris", "Paris"),
    ("  Paris.\n", "Paris"),
    ("#### New   York", "New York"),
    ("#### New\tYork", "new york"),
    ("#### Jean‐Luc", "Jean-Luc"),
    ("#### O’Neill", "O'Neill"),
    ("#### Straße", "STRASSE"),
    ("#### ﬁre", "fire"),
    ("#### Ｐａｒｉｓ", "paris"),
    ("#### C++", "c++"),
    ("#### 12:30", "12:30"),
    ("#### x, y", "X, Y"),
    ("#### (Paris)", "Paris"),
    ("#### yes!", "Yes"),
    ("#### e\u0301cole", "école"),
    ("#### 18", "18"),
    ("#### H2O", "h2o"),
    ("#### H₂O", "H2O"),
    ("#### x²", "x^2"),
    ("#### 10⁻³", "10^-3"),
    ("#### ½", "1/2"),
    ("#### 1½", "1 1/2"),
    ("#### (5)", "5"),
    ("#### [Paris]", "Paris"),
    ("#### {Paris}", "Paris"),
    ("#### $$5$$", "5"),
    ("#### $\\$5$", "$5"),
    ("#### \\(Paris\\)", "Paris"),
    ("#### 'it's'", "it's"),
    ("#### _Paris_", "Paris"),
    ("#### ***Paris***", "Paris"),
    ("#### **Paris**, France", "Paris, France"),
    ("#### **(Paris.)**", "Paris"),
    ("#### 5.", "5"),
    ("#### Who?", "who"),
    ("#### 'Who'!", "who"),
    # Marks that were opened before it.
    ("**#### Paris**", "Paris"),
    ("(#### Paris)", "Paris"),
    ("**Answer: 42**", "42"),
    ("**The answer is Paris.** It is in France.", "Paris"),
    ('I say: "The answer is Paris."', "Paris"),
    ('The answer is "Paris." It is in France.', "Paris"),
    ("(The answer is 12:30.)", "12:30"),
    ("$\\text{The answer is Paris}$", "Paris"),
    # What a sentence adds.
    ("The answer is Mary Shelley, who wrote Frankenstein.", "Mary Shelley"),
    ("The answer is Mary Shelley, who wrote it. She was English.", "Mary Shelley"),
    ("The answer is the Seine, which flows through Paris", "the Seine"),
    ("#### The answer is Paris, where it flows.", "Paris"),
    ("The answer is Paris, because it is the capital.", "Paris"),
    ("The answer is Paris, France.", "Paris, France"),
    # Not stated: supposed, denied, or of another.
    ("The answer is Paris. The tempting answer is Rome.", "Paris"),
    ("The answer is Paris. If the answer was Rome, it would be in Italy.", "Paris"),
    ("The answer is Paris. The answer is not Rome.", "Paris"),
    # Headings.
    ("#### Paris ####", "Paris"),
    ("#### Final Answer\n> Paris", "Paris"),
    ("#### Solution\nParis", "Paris"),
    ("#### Step 2\nIt flows there.\nThe final answer is \\boxed{Paris}.", "Paris"),
    ("#### Phase 2", "Phase 2"),
]
DIFFERENT = [
    ("#### Paris", "London"),
    ("#### Paris, France", "Paris"),
    ("#### Paris or Rome", "Paris"),
    ("#### the Paris", "Paris"),
    ("#### Pari", "Paris"),
    ("#### Pariss", "Paris"),
    ("#### New York", "NewYork"),
    ("#### ecole", "école"),
    ("#### C", "C++"),
    ("#### 12.30", "12:30"),
    ("#### 18.0", "18"),
    ("#### -18", "18"),
    ("#### H2", "H2O"),
    ("#### O Neill", "O'Neill"),
    ("#### y, x", "x, y"),
    ("#### Paris\n#### Rome", "Paris"),
    ("#### ", "Paris"),
    ("#### final_answer", "final_answer"),
    ("#### ...", "..."),
    ("", ""),
    ("Paris is large.\nIt is in France.", "Paris"),
    ("Paris it is", "Paris"),
    ("End with '#### Paris'", "Paris"),
    ("\\boxed{Paris", "Paris"),
    ("\\boxed{}", "Paris"),
    ("The answer is", "Paris"),
    ("The answer is not Paris.", "Paris"),
    ("#### not Paris", "Paris"),
    ("#### Paris?\nRome", "Rome"),
    ("#### I think Paris", "Paris"),
    ("#### P a r i s", "Paris"),
    ("#### Paris" + " Paris" * 100, "Paris"),
    ("#### no", "not"),
    ("#### true", "false"),
    ("#### a", "b"),
    ("#### 2x", "x"),
    ("#### it's", "its"),
    ("#### well-known", "wellknown"),
    ("#### m²", "m"),
    ("#### α", "a"),
    ("#### .5", "5"),
    ("#### 5!", "5"),
    ("#### n!", "n"),
    ("#### -5", "5"),
    ("#### −5", "5"),
    ("#### $-5$", "5"),
    ("#### 2**3", "23"),
    ("#### 2*3*4", "234"),
    ("#### (1,2)", "[1,2]"),
    ("#### (1, 2)", "1, 2"),
    ("#### {1}", "1"),
    ("#### [x]", "x"),
    ("#### x²", "x2"),
    ("#### 2⁵", "25"),
    ("#### 1½", "11/2"),
    ("#### $5", "5"),
    ('#### 5"', "5"),
    ("#### f'", "f"),
    ("#### A*", "A"),
    ("#### 5?", "5"),
    ("#### 1, 2, ...", "1, 2"),
    ("#### __init__", "init"),
    ("#### Mary Shelley, who wrote Frankenstein", "Mary Shelley"),
    ("The answer is Paris, which is wrong.", "Paris"),
    ("The answer is Paris, because it is not Rome.", "Paris"),
    ("The answer is Paris. The answer is not Paris.", "Paris"),
    ("If the answer was Paris", "Paris"),
    ("The wrong answer is Paris.", "Paris"),
    ("#### Final Answer\n- Paris\n- Rome", "Paris"),
    ("#### Solution\nWe look.\nParis", "Paris"),
    ("#### Solution", "Solution"),
]


@pytest.mark.parametrize(("text", "gold"), EQUAL)
def test_equal_texts(text: str, gold: str) -> None:
    answer = TEXT.extract(text)
    assert TEXT.equal(answer, TEXT.read_gold(gold))
    assert TEXT.read(answer or "") == answer


@pytest.mark.parametrize(("text", "gold"), DIFFERENT)
def test_different_texts_and_completions_without_one(text: str, gold: str) -> None:
    assert not TEXT.equal(TEXT.extract(text), TEXT.read_gold(gold))


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("It flows.\n#### The Seine", "the seine"),
        ("So \\boxed{Paris} it is.\nYes.", "paris"),
        ("two\nlines", None),
        ("####", None),
        ("\\boxed{}", None),
        ("?!", None),
        ("x" * (MAX_ANSWER_CHARS + 1), None),
    ],
)
def test_gold_answers(gold: str, answer: str | None) -> None:
    assert TEXT.read_gold(gold) == answer


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "#### ",
                "\\boxed{",
                "}",
                "\n",
                "answer is ",
                "ß",
                "İ",
                "\\text{",
                "**",
                "'",
                "(",
                ")",
                "[1,",
                "\\$",
                "$",
                "x²",
                "½",
                "_",
                ".",
                ",",
                "!",
                "`",
                "not ",
            ]
        )
        | st.text(max_size=8),
        max_size=40,
    ).map("".join)
)
def test_no_text_is_an_error_and_what_is_read_stays(text: str) -> None:
    for found in (TEXT.extract(text), TEXT.read(text), TEXT.read_gold(text)):
        assert found is None or (TEXT.read(found) == found and normalised(found) == found)


def test_a_text_longer_than_an_answer_is_left_as_it_is_after_some_rounds() -> None:
    assert normalised("ab" + ";" * 2 * MAX_ANSWER_CHARS) == "ab" + ";" * MAX_ANSWER_CHARS
