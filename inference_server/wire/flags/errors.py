"""Messages about a command line that cannot be read."""

from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from types import MappingProxyType

from pydantic import BaseModel

from inference_server.wire.flags.keys import key_of
from inference_server.wire.settings.errors import (
    SEVERAL,
    Source,
    known_keys,
    nearest_key,
    suggestion,
)
from inference_server.wire.settings.model import positionals, takes_json


def flag_suggestion(flag: str, keys: Collection[str], *, kebab_case: bool = False) -> str:
    """`suggestion` for a flag that is given with its ``--``."""
    meant = suggestion(key_of(flag), keys).replace("mean ", "mean --")
    return meant.replace("_", "-") if kebab_case else meant


def unknown_flags(
    unknown: Sequence[str],
    model: type[BaseModel],
    other_keys: Collection[str] = (),
    arguments: Sequence[str] = (),
    inherited: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """One line for each unknown flag, or else one for a surplus argument.

    Args:
        unknown: The arguments that no flag of the model takes.
        model: The program's settings.
        other_keys: Keys of other programs, which this one does not read.
        arguments: The whole command line.
        inherited: Keys of the model that default to another program's key: own key → ``section.key``.
    """
    own_names = {dotted: name for name, dotted in inherited.items()}
    without_flag = positionals(model)
    keys = set(known_keys(model))
    lines = []
    for flag in (a.partition("=")[0] for a in unknown if a.startswith("--")):
        key = key_of(flag)
        if key not in other_keys or key in without_flag:
            lines.append(f"{flag}: unknown flag{_meant(flag, keys, without_flag)}")
            continue
        own = own_names.get(key, key.rpartition(".")[2])
        advice = "of no use to this one; leave it out"
        if own in keys:
            advice = f"here it is {own.upper() if own in without_flag else f'--{own}'}"
        lines.append(f"{flag}: a setting of other commands; {advice}")
    return lines or [
        f"unexpected argument {argument!r}{_behind_a_list(argument, model, arguments)}"
        for argument in unknown[:1]
    ]


def _meant(flag: str, keys: Collection[str], without_flag: Collection[str]) -> str:
    """`flag_suggestion`, or how to give a value that takes no flag, if that is what was meant."""
    key = key_of(flag)
    value = key if key in without_flag else nearest_key(key, keys)
    if value in without_flag:
        return f"; {give_without_flag(value)}"
    return flag_suggestion(flag, keys)


def give_without_flag(value: str) -> str:
    """How to give a value that stands on the command line without a flag."""
    return f"give {value.upper()} without a flag in front of it"


def _behind_a_list(argument: str, model: type[BaseModel], arguments: Sequence[str]) -> str:
    """How to give several items, if an argument follows the first one behind a list's flag."""
    before = arguments[: arguments.index(argument)] if argument in arguments else ()
    flag = next((a.partition("=")[0] for a in reversed(before) if a.startswith("--")), "")
    is_items = takes_json(model, key_of(flag))
    return f"; of {flag} {SEVERAL}" if is_items else ""


def repeated_flags(
    arguments: Sequence[str], keys: Collection[str], *, kebab_case: bool = False
) -> list[str]:
    """One line for each flag that is given twice with different values: the last must not silently win.

    Args:
        arguments: As the parser gets them; a value stands behind ``=`` or behind its flag.
        keys: Keys that take one value; the flag of a list may be repeated, and each adds elements.
        kebab_case: Whether flags are shown with ``-``.
    """
    given: dict[str, set[str]] = {}
    for argument, after in zip_longest(arguments, arguments[1:], fillvalue="--"):
        flag, equals, value = argument.partition("=")
        key = key_of(flag)
        if key not in keys and key.startswith("no_"):
            key, value, equals = key.removeprefix("no_"), "false", "="
        if key in keys:
            value = value if equals else "true" if after.startswith("--") else after
            given.setdefault(key, set()).add(value)
    source = Source(values={}, kind="flag", kebab_case=kebab_case)
    return [
        source.says(key, "given twice with different values; leave one of them out")
        for key, values in given.items()
        if len(values) > 1
    ]
