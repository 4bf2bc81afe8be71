"""Flags, read into a plain mapping."""

from collections.abc import Collection, Sequence
from itertools import pairwise

from pydantic import BaseModel
from pydantic_settings import CliUnknownArgs
from pydantic_settings import SettingsError as SourceError

from inference_server.wire.flags.errors import give_without_flag, repeated_flags
from inference_server.wire.flags.keys import key_of
from inference_server.wire.flags.source import FlagSource
from inference_server.wire.settings.errors import SettingsError, known_keys
from inference_server.wire.settings.model import is_switch, positionals, takes_json
from inference_server.wire.settings.sources import Program, Values, as_settings, check_json

_UNKNOWN = "unknown_arguments"
_PREFIXES = {"true": "--", "false": "--no-"}


def read_flags(
    model: type[BaseModel], arguments: Sequence[str], program: Program
) -> tuple[Values, list[str]]:
    """The values that flags give to a model's fields, and the arguments that are not among these flags.

    Prints help and exits 0 for ``--help``.
    """
    settings = as_settings(
        model,
        without=program.not_flags,
        doc=program.description,
        **{_UNKNOWN: (CliUnknownArgs, ...)},
    )
    keys = {key for key in known_keys(settings) if key != _UNKNOWN}
    for flag, value in pairwise(
        part for argument in arguments for part in _flag_and_value(argument)
    ):
        check_json(model, key_of(flag), value, kind="flag", kebab_case=program.kebab_case)
    spelt = _canonical(arguments, keys, program)
    spelt = _as_switches(spelt, {key for key in keys if is_switch(settings, key)}, program)
    single = {key for key in keys if not takes_json(settings, key)}
    if lines := repeated_flags(spelt, single, kebab_case=program.kebab_case):
        raise SettingsError(*lines)
    try:
        source = FlagSource(
            settings,
            cli_prog_name=program.name,
            cli_parse_args=spelt,
            cli_kebab_case=program.kebab_case,
            cli_avoid_json=True,
            cli_implicit_flags=True,
            cli_hide_none_type=True,
            cli_ignore_unknown_args=True,
            # Errors come back as exceptions, so that they are one line without the usage.
            cli_exit_on_error=False,
        )
        values = source()
    except SourceError as error:
        message = str(error).removeprefix("error parsing CLI: ")
        as_flags = sorted(positionals(model) & {key_of(argument) for argument in arguments})
        raise SettingsError("; ".join([message, *map(give_without_flag, as_flags)])) from None
    return values, list(values.pop(_UNKNOWN, ()))


def given_flags(arguments: Sequence[str]) -> set[str]:
    """The words of a command line, spelt as vLLM spells flags: with ``-``, and without a value behind ``=``.

    Values that are separate words are among them, too.
    """
    return {argument.partition("=")[0].replace("_", "-") for argument in arguments}


def _flag_and_value(argument: str) -> list[str]:
    flag, equals, value = argument.partition("=")
    return [flag, value] if equals and flag.startswith("--") else [argument]


def _canonical(arguments: Sequence[str], keys: Collection[str], program: Program) -> list[str]:
    """The arguments with our flags spelt as the parser knows them, whether given with ``-`` or ``_``."""
    flags = {}
    short = {flag: key for flag, key in program.short_flags.items() if key in keys}
    for flag, key in ({key: key for key in keys} | short).items():
        spelt = key.replace("_", "-") if program.kebab_case else key
        for prefix in ("", "no-"):
            flags[(prefix + flag).replace("-", "_")] = prefix + spelt
    found = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        known = flags.get(key_of(name))
        found.append(argument if known is None else f"--{known}{equals}{value}")
    return found


def _as_switches(
    arguments: Sequence[str], switches: Collection[str], program: Program
) -> list[str]:
    """The arguments with ``--x true`` and ``--x=false`` as ``--x`` and ``--no-x``, all that the parser knows.

    Raises:
        SettingsError: A value is neither true nor false.
    """
    spelt = {f"--{key.replace('_', '-') if program.kebab_case else key}" for key in switches}
    found: list[str] = []
    before = ""
    for position, argument in enumerate(arguments):
        if argument == "--":
            return [*found, *arguments[position:]]
        flag, equals, value = argument.partition("=")
        if flag in spelt and equals:
            if value.lower() not in _PREFIXES:
                raise SettingsError(f"{flag}: true or false, not {value!r}")
            found.append(_PREFIXES[value.lower()] + flag[2:])
        elif before in spelt and argument.lower() in _PREFIXES:
            found[-1] = _PREFIXES[argument.lower()] + before[2:]
        else:
            found.append(argument)
        before = argument
    return found
