"""JSON from outside: what only some parsers read is refused, and its key is named."""

import re
from typing import Any

import pytest

from inference_server.wire.json_and_toml import JsonFlaw, check_flaws, parse_json, parse_toml


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "'a' is given twice"),
        ('[{"a": {"b": 1, "b": 1}}]', "'b' is given twice"),
        ('{"a": NaN}', "'a' is NaN, which JSON does not have"),
        ('{"a": {"b": [1, [-Infinity]]}}', "'b' is -Infinity, which JSON does not have"),
        ('{"a": [{"b": Infinity}]}', "'b' is Infinity, which JSON does not have"),
        ("[1, NaN]", "a value is NaN, which JSON does not have"),
        ("NaN", "a value is NaN, which JSON does not have"),
        ('{"' + "k" * 500 + '": NaN}', f"'{'k' * 100}' is NaN"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"parse_int": str, "parse_float": str}])
def test_what_only_some_parsers_read_is_refused_with_its_key(
    text: str, said: str, options: dict[str, Any]
) -> None:
    with pytest.raises(JsonFlaw) as caught:
        parse_json(text, **options)
    assert str(caught.value).startswith(said)
    with pytest.raises(JsonFlaw):
        check_flaws(text.encode())


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, '{"a": nan}', '{"a": NaN', "\ufeff{}"])
def test_what_is_no_json_is_left_to_its_reader(text: str) -> None:
    check_flaws(text)
    with pytest.raises((ValueError, RecursionError)):
        parse_json(text)


@pytest.mark.parametrize("text", ['{"a": "NaN", "b": [1e999, null]}', '[{"a": 1}, {"a": 1}]', "1"])
def test_json_is_read(text: str) -> None:
    check_flaws(text)
    parse_json(text)


def test_toml_may_begin_with_the_mark_before_utf_8() -> None:
    assert parse_toml(b"\xef\xbb\xbfa = 1\r\n") == parse_toml(b"a = 1\n") == {"a": 1}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a = 1\nb = '\xe4'\n", "not UTF-8 (at line 2)"),
        ("a = 1".encode("utf-16"), "not UTF-8 (at line 1)"),
        (b"a = " + b"[" * 5000, "nested too deeply"),
        (b"a = " + b"9" * 5000, "4300 digits"),
        (b"a = ", "Invalid value"),
        (b"a = 1\nb = null # off\n", 'column 5); TOML has no null: write "null"'),
        (b"a = [1, 2]\r\n[t]\r\nb = True\r\n", "column 5); TOML has no True: write true"),
        (b"a = [1, NULL]\n", 'column 9); TOML has no NULL: write "null"'),
        (b"a = { b = nil }\n", 'column 11); TOML has no nil: write "null"'),
    ],
)
def test_what_is_no_toml_is_said_in_one_line(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        parse_toml(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "a = x # b = null",
        'a = "b = None" c',
        "a = nullable",
        'a = "= null',
        "null = ",
        "a = [true false]",
        "a = none-of-these",
        "a = True story",
        "a = [1, 2\nnull = 3",
    ],
)
def test_a_null_that_is_not_at_fault_is_not_named(line: str) -> None:
    with pytest.raises(ValueError, match="at ") as caught:
        parse_toml(line.encode())
    assert "TOML has no" not in str(caught.value)
