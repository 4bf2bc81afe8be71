"""How server and trainer read their settings: flags, then environment, then a TOML file, then defaults.

``--section.key`` beats ``REGIME_W_SECTION__KEY`` beats ``[section] key`` in the file. One file serves
every command and the server: a program reads the tables that it knows, and checks the others where it
has their types. Flags may be written with ``-`` or ``_``. Empty variables count as not set, because
Compose passes on as empty what the user left out. Loads neither torch nor vllm.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, create_model

from inference_server.wire.flags.errors import unknown_flags
from inference_server.wire.flags.reading import read_flags
from inference_server.wire.settings.errors import (
    SettingsError,
    Source,
    error_lines,
    given_twice,
    got,
    known_keys,
    unknown_variables,
)
from inference_server.wire.settings.model import mistaken_types
from inference_server.wire.settings.sources import (
    Program,
    Values,
    config_flag,
    read_environment,
    read_toml,
    variables,
)

_Model = TypeVar("_Model", bound=BaseModel)


def load_settings(
    model: type[_Model], arguments: Sequence[str], program: Program
) -> tuple[_Model, list[str]]:
    """Read the settings of a program; ``--config FILE`` names the TOML file.

    Prints help and exits 0 for ``--help``.

    Args:
        model: Type of the settings; its fields are sections and the program's own keys.
        arguments: The command line.
        program: What may be given, and how.

    Returns:
        The settings, and the arguments that are not the model's flags, if the program allows any.

    Raises:
        SettingsError: One line for each mistake, which names the key.
    """
    path, rest = config_flag(arguments)
    flags, unknown = read_flags(model, rest, program)
    own, others = _sources(model, program, path)
    own.insert(0, Source(values=flags, kind="flag", kebab_case=program.kebab_case))
    keys = {*known_keys(model), *program.sections}
    for name, section in program.sections.items():
        keys |= {f"{name}.{key}" for key in known_keys(section) if "." not in key}
    lines = [
        *_tables_in_tables([*own, *others], program),
        *given_twice(own),
        *_mistaken_types(own[-2:], others[-1], model, program),
    ]
    if lines:
        raise SettingsError(*lines)
    lines = []
    if not program.allow_unknown_flags:
        lines += unknown_flags(unknown, model, keys, rest, program.inherited)
    lines += unknown_variables(variables(), keys, program.other_keys)
    tables = {}
    for name, values in _merged(others).items():
        try:
            tables[name] = program.sections[name].model_validate(values)
        except ValidationError as error:
            lines += error_lines(error, others, keys, table=name)
    own += _inherited(tables, program.inherited, others)
    try:
        settings = model.model_validate(_merged(own))
    except ValidationError as error:
        found = error_lines(error, own, keys)
        if program.allow_unknown_flags:
            found += _misspelt(error, unknown, others, program)
        raise SettingsError(*lines, *found) from None
    if lines:
        raise SettingsError(*lines)
    return settings, unknown


def _sources(
    model: type[BaseModel], program: Program, path: Path | None
) -> tuple[list[Source], list[Source]]:
    """What environment and file give, strongest first: for the program's settings, and for other tables."""
    file = str(path or "")
    content = {} if path is None else read_toml(path)
    _require_tables(content, model, program, file)
    top, in_file = _split(content, model, program)
    # A variable whose name has no section may be a key of another command: `eval` has ``data``.
    tables_model = create_model("Tables", **_other_tables(model, program))
    in_variables = read_environment(tables_model, only_nested=True)
    table = program.own_section
    own = [
        Source(values=read_environment(model), kind="variable"),
        Source(values=in_variables.pop(table or "", {}), table=table, kind="variable"),
        Source(values=top, kind=file),
        Source(values=in_file.pop(table or "", {}), table=table, kind=file),
    ]
    return own, [Source(values=in_variables, kind="variable"), Source(values=in_file, kind=file)]


def _require_tables(file: Values, model: type[BaseModel], program: Program, path: str) -> None:
    """Refuse anything but a table where one belongs; a text may be the value of an own key (`eval` has ``data``)."""
    lines = [
        Source(values={}, kind=path).says(name, f"must be a table{got(name, value)}")
        for name, value in file.items()
        if name in program.sections
        and not isinstance(value, dict)
        and not (isinstance(value, str) and name in model.model_fields)
    ]
    if lines:
        raise SettingsError(*lines)


def _tables_in_tables(sources: Sequence[Source], program: Program) -> list[str]:
    """One line for each section in a command's own table: sections stand at the top of the file."""
    lines = []
    for source in sources:
        tables = source.values if source.table is None else {source.table: source.values}
        for table, values in tables.items():
            if table not in program.sections or not isinstance(values, Mapping):
                continue
            lines += [
                replace(source, table=table).says(key, f"unknown key; did you mean {key}?")
                for key in values
                if key in program.sections and _is_section(program.sections[table], key)
            ]
    return lines


def _misspelt(
    error: ValidationError, flags: Sequence[str], others: Sequence[Source], program: Program
) -> list[str]:
    """Lines on unknown flags, and on keys beside an inherited one, that may be meant as a missing setting."""
    lines = []
    for name in (str(e["loc"][0]) for e in error.errors() if e["type"] == "missing"):
        near = difflib.get_close_matches(f"--{name}", [f.partition("=")[0] for f in flags], 1)
        lines += [f"{flag}: unknown flag; did you mean --{name}?" for flag in near]
        section, _, key = program.inherited.get(name, "").partition(".")
        lines += [
            source.says(f"{section}.{given}", f"unknown key; did you mean {section}.{key}?")
            for source in others
            for given in difflib.get_close_matches(key, source.values.get(section, ()), 1)
        ]
    return lines


def _split(file: Values, model: type[BaseModel], program: Program) -> tuple[Values, Values]:
    """The keys of a file that are the program's, and the tables beside them."""
    tables = {
        name: value
        for name, value in file.items()
        if name in program.sections
        and (name not in model.model_fields or isinstance(value, dict))
        and not _is_section(model, name)
    }
    return {name: value for name, value in file.items() if name not in tables}, tables


def _other_tables(model: type[BaseModel], program: Program) -> dict[str, Any]:
    """Fields of a model with the tables that are not the program's sections; the table of its own keys is one."""
    own = {} if program.own_section is None else {program.own_section: model}
    return {
        name: (section, ...)
        for name, section in {**program.sections, **own}.items()
        if not _is_section(model, name)
    }


def _is_section(model: type[BaseModel], name: str) -> bool:
    """Whether a field holds a table, and not a value that only has a table's name."""
    annotation = model.model_fields[name].annotation if name in model.model_fields else None
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _merged(sources: Sequence[Source]) -> Values:
    """All sources as one, key by key; the earlier ones are stronger."""
    merged: Values = {}
    for source in reversed(sources):
        merged = _updated(merged, source.values)
    return merged


def _updated(old: Mapping[str, Any], new: Mapping[str, Any]) -> Values:
    return {**old} | {
        key: _updated(old[key], value)
        if isinstance(value, Mapping) and isinstance(old.get(key), Mapping)
        else value
        for key, value in new.items()
    }


def _inherited(
    tables: Mapping[str, BaseModel], inherited: Mapping[str, str], others: Sequence[Source]
) -> list[Source]:
    """Own keys that take their value from another table, with the source in which it was given."""
    found = []
    for key, dotted in inherited.items():
        section, _, name = dotted.partition(".")
        value = getattr(tables.get(section), name, None)
        source = next((other for other in others if other.holds((section, name))), None)
        if value is not None and source is not None:
            found.append(replace(source, values={key: value}, given_as={key: dotted}))
    return found


def _mistaken_types(
    own: Sequence[Source], tables: Source, model: type[BaseModel], program: Program
) -> list[str]:
    """One line for each value of a file that is of another type than its key."""
    found = [(source, mistaken_types(model, source.values)) for source in own]
    every_table = create_model("Tables", **_other_tables(model, program))
    found.append((tables, mistaken_types(every_table, tables.values)))
    return [
        source.says(key, reason + got(key, value))
        for source, mistakes in found
        for key, reason, value in mistakes
    ]
