"""How server and trainer read their settings: flags, then environment, then a TOML file, then defaults.

``--section.key`` beats ``REGIME_W_SECTION__KEY`` beats ``[section] key`` in the file. One file serves
every command and the server: a program reads the tables that it knows, and checks the others where it
has their types. Flags may be written with ``-`` or ``_``. Empty variables count as not set, because
Compose passes on as empty what the user left out. Loads neither torch nor vllm.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, create_model

from inference_server.wire.settings_errors import (
    SettingsError,
    Source,
    error_lines,
    flag_suggestion,
    known_keys,
    suggestion,
)
from inference_server.wire.settings_sources import (
    Program,
    Values,
    config_flag,
    nested_variables,
    read_environment,
    read_flags,
    read_toml,
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
        The settings, and the arguments that are no flags of the model, where the program allows any.

    Raises:
        SettingsError: One line for each mistake, which names the key.
    """
    path, rest = config_flag(arguments)
    flags, unknown = read_flags(model, rest, program)
    own, others = _sources(model, program, path)
    own.insert(0, Source(values=flags, kind="flag", kebab_case=program.kebab_case))
    keys = {*known_keys(model), *program.sections}
    for name, section in program.sections.items():
        keys |= {f"{name}.{key}" for key in known_keys(section)}
    lines = [] if program.allow_unknown_flags else _unknown_flags(unknown, model)
    lines += _unknown_variables(keys)
    tables = {}
    for name, values in _merged(others).items():
        try:
            tables[name] = program.sections[name].model_validate(values)
        except ValidationError as error:
            lines += error_lines(error, others, keys, table=name)
    own.append(Source(values=_inherited(tables, program.inherited)))
    try:
        settings = model.model_validate(_merged(own))
    except ValidationError as error:
        raise SettingsError(*lines, *error_lines(error, own, keys)) from None
    if lines:
        raise SettingsError(*lines)
    return settings, unknown


def _sources(
    model: type[BaseModel], program: Program, path: Path | None
) -> tuple[list[Source], list[Source]]:
    """What environment and file say, strongest first: of the program's settings, and of other tables."""
    top, in_file = _split({} if path is None else read_toml(path), model, program)
    # Without a section in its name a variable may be a key of another command: `eval` has ``data``.
    tables_model = create_model("Tables", **_other_tables(model, program))
    in_variables = read_environment(tables_model, only_nested=True)
    table, file = program.own_section, str(path or "")
    own = [
        Source(values=read_environment(model), kind="variable"),
        Source(values=in_variables.pop(table or "", {}), table=table, kind="variable"),
        Source(values=top, kind=file),
        Source(values=in_file.pop(table or "", {}), table=table, kind=file),
    ]
    return own, [Source(values=in_variables, kind="variable"), Source(values=in_file, kind=file)]


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
    """Fields of a model with the tables that are not the program's sections; its own keys' is one."""
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


def _inherited(tables: Mapping[str, BaseModel], inherited: Mapping[str, str]) -> Values:
    """Own keys that take what another table says."""
    found = {}
    for key, dotted in inherited.items():
        section, _, name = dotted.partition(".")
        if section in tables and name in tables[section].model_fields_set:
            found[key] = getattr(tables[section], name)
    return {key: value for key, value in found.items() if value is not None}


def _unknown_flags(unknown: Sequence[str], model: type[BaseModel]) -> list[str]:
    """One line for each flag that there is not, or one for a surplus argument."""
    flags = [argument.partition("=")[0] for argument in unknown if argument.startswith("--")]
    keys = set(known_keys(model))
    lines = [f"{flag}: unknown flag{flag_suggestion(flag, keys)}" for flag in flags]
    return lines or [f"unexpected argument {argument!r}" for argument in unknown[:1]]


def _unknown_variables(keys: Collection[str]) -> list[str]:
    """One line for each ``REGIME_W_SECTION__KEY`` of a section that there is not."""
    return [
        Source(values={}, kind="variable").says(key, f"unknown key{suggestion(key, keys)}")
        for key in nested_variables()
        if key.partition(".")[0] not in keys
    ]
