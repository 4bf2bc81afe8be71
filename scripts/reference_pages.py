"""Writes docs/settings.md and docs/metrics.md from the code that defines the settings and metrics.

    python scripts/reference_pages.py

A test fails until what this writes is committed.
"""

import re
import types
import typing
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trainer.config.sections import SECTIONS, CommandConfig
from trainer.console.metric_catalog import METRICS, SFT_METRICS

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTE = "<!-- Written by scripts/reference_pages.py. -->\n"
COMMANDS = {
    "collect": "Keys of `collect` alone",
    "eval": "Keys of `eval` alone",
    "doctor": "Keys of `doctor` alone",
}


def settings_page() -> str:
    """Every table of a configuration file with its keys, types, defaults and meaning."""
    lines = [
        "# Settings",
        "",
        "You can give each key in three ways. Flags win over variables, and variables over the file.",
        "",
        "- a flag: `--ppo.learning_rate 1e-4` (or `--ppo.learning-rate`)",
        "- an environment variable: `REGIME_W_PPO__LEARNING_RATE`",
        "- a place in the TOML file of `--config`; one file serves the server and every command, and each reads the tables that concern it",
        "",
        '`null` turns an optional setting off; TOML has no such value, so a file says `"null"`.',
        "",
        "If a command takes only some keys of a table, their flags have no table name (`sft --prompt_format plain`); the command's `--help` lists them.",
        "",
        'A list is written as JSON in a flag (`--rollout.stop \'["\\n\\n", "Well, so"]\'`) and in a variable. A flag\'s text that is no such list',
        "is one item and is never divided (`--rollout.stop 'Well, so'`); give the flag several times for several items.",
        "",
    ]
    for name, section in SECTIONS.items():
        lines += [f"## {name}", "", f"{COMMANDS.get(name) or _first_line(section)}.", ""]
        lines += _table(section)
    return NOTE + "\n".join(lines).rstrip() + "\n"


def metrics_page() -> str:
    """Every metric of a step with its meaning."""
    lines = [
        "# Metrics",
        "",
        "`RUN/metrics.jsonl` has one line per step, TensorBoard has the same values, and with `run.metrics_port` Prometheus",
        "scrapes those of the newest step. The keys stay the same across releases. An evaluation for which no step's",
        "line has a place, such as a second one after the last step, has a line of its own: `step`, and the `eval/` keys.",
        "Every line also has `time`, which is when it was written in seconds since 1970; only the file has this key.",
        "",
        "What a mean or a share is taken over:",
        "",
        "- `reward/correct`, `reward/any_correct` and the shares of groups: all questions that were asked.",
        "- The other `reward/`, `scores/`, `arm/` and `rollout/` keys: the groups that train. With `rollout.dynamic_sampling` these are",
        "  never all right or all wrong.",
        "- `ppo/` keys, with rloo or grpo without a KL penalty: the groups whose rewards differ.",
        "",
        "With `data.curriculum`, solved questions are asked less often, so that even `reward/correct` is lower than the policy's",
        "accuracy; `eval/accuracy` is not affected.",
        "",
        "| key | meaning |",
        "|---|---|",
        *(f"| `{metric.key}` | {_cell(metric.help)} |" for metric in METRICS),
        "",
        "## Of an SFT",
        "",
        "`sft` writes `metrics.jsonl` into its output: a line for the first step and for every fifth one, and a line of the held-out loss every",
        "`sft.evaluate_every` steps, the first of them before the first step (step 0). The names but `time/step_s` are TRL's. Each line also has `step`,",
        "`num_steps` (the number of steps in all) and `time`, which only the file has.",
        "",
        "| key | meaning |",
        "|---|---|",
        *(f"| `{key}` | {_cell(meaning)} |" for key, meaning in SFT_METRICS.items()),
    ]
    return NOTE + "\n".join(lines) + "\n"


def _table(section: type[BaseModel]) -> Iterable[str]:
    shared = CommandConfig if issubclass(section, CommandConfig) else None
    keys = {
        name: field
        for name, field in section.model_fields.items()
        # The sections that a command shares with others have tables of their own.
        if shared is None or not _is_section(field)
    }
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in keys.items():
        yield (
            f"| `{name}` | {_cell(_type_name(field.annotation))} | {_default(field)} | "
            f"{_cell(field.description or '')} |"
        )
    yield ""


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _type_name(annotation: object) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(each) for each in arguments)
    if origin in (tuple, list):
        return f"list of {_type_name(arguments[0])}"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, {"Path": "path", "SecretStr": "text"}.get(name, name))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "must be given"
    if value is None:
        return "null"
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return "the eight arms"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        return "`[" + ", ".join(str(each) for each in value) + "]`"
    return f"`{value}`" if str(value) else "empty"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|").replace("<", "&lt;")


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0].rstrip(".:;")


if __name__ == "__main__":
    DOCS.joinpath("settings.md").write_text(settings_page())
    DOCS.joinpath("metrics.md").write_text(metrics_page())
