"""How server and trainer read their settings: flags, then environment, then a TOML file, then defaults.

``--section.key`` beats ``REGIME_W_SECTION__KEY`` beats ``[section] key`` in the file. One file serves
every command and the server: a program reads the tables that it knows, and checks the others where it
has their types. Flags may be written with ``-`` or ``_``. Empty variables count as not set, because
Compose passes on as empty what the user left out. Loads neither torch nor vllm.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, create_model

from inference_server.wire.settings_errors import (
    SettingsError,
    Source,
    error_lines,
    known_keys,
    suggestion,
)
from inference_server.wire.settings_sources import (
    Values,
    config_flag,
    nested_variables,
    read_environment,
    read_flags,
    read_toml,
)

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which tables a configuration file may hold, and which keys of it a program reads as its own."""

    sections: Mapping[str, type[BaseModel]]
    """Every table by name."""
    own_section: str | None = None
    """The table for the program's own keys, which may also stand at the top of the file."""
    inherited: Mapping[str, str] = field(default_factory=dict)
    """Own keys that default to another table's key: own key → ``section.key``."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Earlier names of keys, whose flags are still read, and their names now: ``section.key`` each."""


def load_settings(
    model: type[_Model],
    arguments: Sequence[str],
    layout: Layout,
    *,
    prog: str,
    description: str = "",
    kebab_case: bool = False,
    not_flags: Collection[str] = (),
    allow_unknown_flags: bool = False,
) -> tuple[_Model, list[str]]:
    """Read the settings of a program; ``--config FILE`` names the TOML file.

    Prints help and exits 0 for ``--help``.

    Args:
        model: Type of the settings; its fields are sections and the program's own keys.
        arguments: The command line.
        layout: Of the configuration file.
        prog: The program's name in help.
        description: Put after the model's docstring in help.
        kebab_case: Whether help shows flags with ``-``; both spellings are read anyway.
        not_flags: Fields that the command line cannot set.
        allow_unknown_flags: Return arguments that are no flags of the model instead of refusing them.

    Returns:
        The settings, and the unknown arguments.

    Raises:
        SettingsError: One line for each mistake, which names the key.
    """
    path, rest = config_flag(arguments)
    top, file_tables = _split({} if path is None else read_toml(path), model, layout)
    flags, unknown = read_flags(
        model,
        rest,
        prog=prog,
        description=description,
        kebab_case=kebab_case,
        not_flags=not_flags,
        renamed=layout.renamed,
    )
    lines = [] if allow_unknown_flags else _unknown_flags(unknown, model)
    tables_model = create_model("Tables", **_other_tables(model, layout))
    variables = read_environment(model)
    # Without a section in its name a variable may be a key of another command: `eval` has ``data``.
    variable_tables = read_environment(tables_model, only_nested=True)
    own = layout.own_section
    in_file = str(path or "")
    sources = [
        Source(values=flags, kind="flag", kebab_case=kebab_case),
        Source(values=variables, kind="variable"),
        Source(values=variable_tables.pop(own or "", {}), table=own, kind="variable"),
        Source(values=top, kind=in_file),
        Source(values=file_tables.pop(own or "", {}), table=own, kind=in_file),
    ]
    others = [
        Source(values=variable_tables, kind="variable"),
        Source(values=file_tables, kind=in_file),
    ]
    keys = {*known_keys(model), *layout.sections}
    for name, section in layout.sections.items():
        keys |= {f"{name}.{key}" for key in known_keys(section)}
    lines += _unknown_variables(keys)
    tables = {}
    for name, values in _merged(others).items():
        try:
            tables[name] = layout.sections[name].model_validate(values)
        except ValidationError as error:
            lines += error_lines(error, others, keys, table=name)
    sources.append(Source(values=_inherited(tables, layout.inherited)))
    try:
        settings = model.model_validate(_merged(sources))
    except ValidationError as error:
        raise SettingsError(*lines, *error_lines(error, sources, keys)) from None
    if lines:
        raise SettingsError(*lines)
    return settings, unknown


def _split(file: Values, model: type[BaseModel], layout: Layout) -> tuple[Values, Values]:
    """The keys of a file that are the program's, and the tables beside them."""
    tables = {
        name: value
        for name, value in file.items()
        if name in layout.sections
        and (name not in model.model_fields or isinstance(value, dict))
        and not _is_section(model, name)
    }
    return {name: value for name, value in file.items() if name not in tables}, tables


def _other_tables(model: type[BaseModel], layout: Layout) -> dict[str, Any]:
    """Fields of a model with the tables that are not the program's sections; its own keys' is one."""
    own = {} if layout.own_section is None else {layout.own_section: model}
    return {
        name: (section, ...)
        for name, section in {**layout.sections, **own}.items()
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
    keys = set(known_keys(model))
    flags = [argument[2:].partition("=")[0] for argument in unknown if argument.startswith("--")]
    lines = [
        f"--{flag}: unknown flag{suggestion(flag.replace('-', '_'), keys).replace('mean ', 'mean --')}"
        for flag in flags
    ]
    return lines or [f"unexpected argument {argument!r}" for argument in unknown[:1]]


def _unknown_variables(keys: Collection[str]) -> list[str]:
    """One line for each ``REGIME_W_SECTION__KEY`` of a section that there is not."""
    return [
        Source(values={}, kind="variable").says(key, f"unknown key{suggestion(key, keys)}")
        for key in nested_variables()
        if key.partition(".")[0] not in keys
    ]
