"""Messages about settings that cannot be used: where each was given, and which key may be meant."""

import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from inference_server.wire.settings.other_names import key_of_other_name, other_name_suggestion

_MIN_LIKENESS = 0.6
_SHOWN_CHARS = 200
_NEARLY = 0.75
"""Likeness from which a variable without a section is taken for a misspelt key."""
VARIABLE_PREFIX = "REGIME_W_"
_OTHER_VARIABLES = frozenset({"gsm8k_dir", "real_model"})
"""Variables of our tests, which a server that they start gets too."""
SEVERAL = """several items are a list in JSON, '["a", "b"]', or the flag several times"""
"""How a flag gets several items."""
_SECRET = re.compile(r"key$|token$|secret|passw|pwd|credential|bearer|auth|url$")
"""Finds names, without ``-`` and ``_``, of values that may be a secret or, like a URL, contain one."""


class SettingsError(Exception):
    """Settings that cannot be used; each line names one key and what is wrong with it."""

    def __init__(self, *lines: str):
        """Keep the lines."""
        super().__init__("\n".join(lines))
        self.lines = lines


def first_line(error: BaseException) -> str:
    """The first line of a library error's message, or the name of its type if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where some settings were given."""

    values: Mapping[str, Any]
    """The values by key; sections are mappings."""
    table: str | None = None
    """The table that these keys stand in; None if they stand at the top."""
    kind: str = ""
    """``flag``, ``variable``, or the configuration file."""
    kebab_case: bool = False
    """Whether flags are shown with ``-``."""
    given_as: Mapping[str, str] = field(default_factory=dict)
    """Keys that were given as another table's: key → ``section.key``."""

    def holds(self, location: Sequence[str | int]) -> bool:
        """Whether it gives the value at a location."""
        value: Any = self.values
        for part in location:
            try:
                value = value[part]
            except (IndexError, KeyError, TypeError):
                return False
        return True

    def says(self, key: str, reason: str) -> str:
        """A line that names a key as it was given here."""
        key = self.given_as.get(key, key)
        if self.kind == "flag":
            return f"--{key.replace('_', '-') if self.kebab_case else key}: {reason}"
        key = key if self.table is None else f"{self.table}.{key}"
        if self.kind == "variable":
            return f"{key}, from {VARIABLE_PREFIX}{key.upper().replace('.', '__')}: {reason}"
        return f"{key}: {reason}, in {self.kind}" if self.kind else f"{key}: {reason}"


def known_keys(model: type[BaseModel]) -> Iterator[str]:
    """Keys of a model by the names that they are given under, those of its sections as ``section.key``."""
    for name, info in model.model_fields.items():
        key = info.validation_alias if isinstance(info.validation_alias, str) else name
        yield key
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from (f"{key}.{below}" for below in known_keys(annotation))


def suggestion(key: str, keys: Collection[str]) -> str:
    """``; did you mean …?`` with the key of that name, here or in other libraries, or else the nearest; or nothing."""
    near = nearest_key(key, keys)
    if near and near == key_of_other_name(key, keys):
        return other_name_suggestion(key, keys)
    return f"; did you mean {near}?" if near else ""


def nearest_key(key: str, keys: Collection[str]) -> str:
    """The key that `suggestion` names; empty if there is none."""
    if same_name := sorted(known for known in keys if known.rpartition(".")[2] == key):
        return same_name[0]
    near = difflib.get_close_matches(key, sorted(keys), 1, _MIN_LIKENESS)
    return key_of_other_name(key, keys) or next(iter(near), "")


def _as_list(value: object, *, is_item: bool) -> str:
    """How to give several items, if the one text of a flag may be meant as several."""
    text = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    is_meant = isinstance(text, str) and ("," in text or (text is not value and text.strip()))
    return f"; {SEVERAL}" if is_meant and (is_item or text is not value) else ""


def given_twice(own: Sequence[Source]) -> list[str]:
    """One line for each own key that a file has at its top and in the program's table too."""
    top, table = own[-2], own[-1]
    return [
        top.says(key, f"given here and as {table.table}.{key}; leave one of them out")
        for key in top.values
        if key in table.values
    ]


def unknown_variables(
    given: Iterable[str], keys: Collection[str], other_keys: Collection[str]
) -> list[str]:
    """One line for each variable that names no key of any program, and is none of `_OTHER_VARIABLES`.

    Args:
        given: Keys by the variables' names, ``section.key`` or a key without a section.
        keys: All known keys.
        other_keys: Own keys of other programs.
    """
    lines = []
    for key in given:
        section, dot, _ = key.partition(".")
        if section in keys or key in other_keys or key in _OTHER_VARIABLES:
            continue
        if dot:
            meant = suggestion(key, keys)
        else:
            meant = other_name_suggestion(key, keys) or _nearly(key, {*keys, *other_keys})
        lines.append(Source(values={}, kind="variable").says(key, f"unknown key{meant}"))
    return lines


def _nearly(key: str, keys: Collection[str]) -> str:
    """``; did you mean …?`` with a key that differs in a letter or two, or in one ``_`` for two."""
    spelt = {known.replace(".", "_"): known for known in keys}
    near = difflib.get_close_matches(key, sorted(spelt), 1, _NEARLY)
    return f"; did you mean {spelt[near[0]]}?" if near else ""


def got(key: str, value: object) -> str:
    """`` (got …)``, or nothing if the value may hold a secret: keys, and whole tables or texts of them."""
    is_plain = value is None or isinstance(value, (str, int, float))
    names = re.sub(r"[-_]", "", key.lower()).split(".")
    is_secret = names[-1] in ("server", "serve") or any(map(_SECRET.search, names))
    return f" (got {_shown(value)})" if is_plain and not is_secret else ""


def not_json_message(key: str, value: str) -> str:
    """What is wrong with a text where JSON is needed, and how to write a list of it for a section's key."""
    section, _, last = key.rpartition(".")
    shown = "" if value.startswith(("{", "[")) else got(last, value)
    return f"must be JSON{shown}" + (
        f"; a list of it is {json.dumps([value])}" if section and shown else ""
    )


def _shown(value: object) -> str:
    """A value as it was given, cut if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write whole numbers of thousands of digits
        return "a whole number of thousands of digits"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def error_lines(
    error: ValidationError, sources: Sequence[Source], keys: Collection[str], *, table: str = ""
) -> list[str]:
    """One line for each mistake.

    Args:
        error: From the validation of the merged settings.
        sources: Where they were given, strongest first.
        keys: All known keys, to suggest the nearest.
        table: The table that was validated, if it was validated by itself.
    """
    lines = []
    for problem in error.errors():
        location = (*((table,) if table else ()), *problem["loc"])
        is_missing = problem["type"] == "missing"
        given_in = location[:-1] if is_missing else location
        source = next((s for s in sources if given_in and s.holds(given_in)), None)
        key = ".".join(map(str, location))
        if problem["type"] == "extra_forbidden":
            in_table = key if source is None or source.table is None else f"{source.table}.{key}"
            is_in_list = any(isinstance(part, int) for part in location)
            # The known keys are not those of a list's entries.
            reason = "unknown key" if is_in_list else f"unknown key{suggestion(in_table, keys)}"
        else:
            is_table = problem["type"] in ("model_type", "dict_type")
            reason = "must be a table" if is_table else problem["msg"].removeprefix("Value error, ")
            if not is_missing:
                reason += got(key, problem["input"])
            if source is not None and source.kind == "flag":
                reason += _as_list(problem["input"], is_item=isinstance(location[-1], int))
        if not location:
            lines.append(reason)  # a rule over several keys, which names them
        elif source is None and len(location) == 1:
            lines.append(sources[0].says(key, reason))  # as a flag
        else:
            lines.append((source or Source(values={})).says(key, reason))
    return lines
