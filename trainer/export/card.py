"""The model card of an export: base, data, prompt, verdict with its intervals, settings and digests.

Its figures are those of the run's ``evaluation.json``. If a path leads out of the working directory, only its last
name is shown.
"""

import os
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from inference_server.wire.base_files import known_fingerprint
from regime_w import build_prompt
from trainer.config.safe_text import safe_line, safe_text
from trainer.config.sections import TrainConfig
from trainer.data.source_names import GENERATED, require_source
from trainer.errors import DataError
from trainer.evaluation.results import Evaluation, ModelResult
from trainer.evaluation.tables import TextTable, tables_of
from trainer.export.target import TAG
from trainer.export.versions import JournalDigest, RunVersion
from trainer.io.base_record import read_base
from trainer.report.run_record import RunRecord
from trainer.report.verdict import verdict_of

_SECTIONS = ("policy", "data", "rollout", "reward", "ppo", "offline")
_RUN_KEYS = ("num_steps", "seed")
_PATHS = (
    ("policy", "base_model"),
    ("policy", "adapter"),
    ("data", "source"),
    ("data", "evaluation_source"),
    ("reward", "functions"),
    ("ppo", "critic_rollouts"),
    ("offline", "rollouts"),
)
"""The settings that name files, each as section and key."""

_MARKUP = re.compile(r"[\\`*|]|\](?=[(\[])|(?<!\w)_|_(?!\w)")
"""What Markdown would read as markup; not an underscore within a word, and of brackets only those of links."""
_BACKTICKS = re.compile("`+")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What a card is about."""

    name: str
    """``owner/name`` on the Hub, or the folder."""
    run: RunRecord
    config: TrainConfig
    """The run's configuration."""
    version: RunVersion
    journal: JournalDigest | None
    merged_dtype: str | None
    """Dtype of merged weights; None for an adapter."""

    @property
    def base_on_hub(self) -> str | None:
        """The base model's id on the Hub; None if it is a folder of this machine."""
        base = self.config.policy.base_model
        return None if os.path.isdir(base) else base

    @property
    def evaluated(self) -> ModelResult | None:
        """The evaluation's result for this version; None if this version was not evaluated."""
        models = () if self.run.evaluation is None else self.run.evaluation.models
        own = [model for model in models if model.adapter_sha256 == self.version.sha256]
        return own[-1] if own else None


def model_card(exported: Exported) -> str:
    """The content of ``README.md``."""
    run, config = exported.run, exported.config
    evaluation = run.evaluation
    verdict = verdict_of(run)
    arms = {arm.name: arm for arm in config.rollout.arms}
    arm = arms.get(evaluation.arm if evaluation else "", config.rollout.arms[0])
    is_chat = config.rollout.prompt_format == "chat"
    base = config.policy.base_model
    kept = read_base(run.folder)
    # Jinja escapes nothing here, because the text is Markdown. Text of others goes through `_plain` or `_code`.
    environment = Environment(
        loader=PackageLoader("trainer.export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": _code, "shell": shlex.quote}
    return environment.get_template("card.md.j2").render(
        metadata=_metadata(exported).to_yaml(),
        title=_plain(run.folder.resolve().name),
        exported=exported,
        base=public_path(base),
        source=public_path(config.data.source),
        base_name=exported.base_on_hub or f"./{Path(base).name}",
        fingerprint=(kept and kept.fingerprint) or known_fingerprint(base),
        verdict=verdict if verdict.is_paired else None,
        evidence=_plain(" ".join(filter(None, (verdict.evidence, run.other_data(public_path))))),
        trained=None if run.compared is None else run.compared[1],
        summary=None if evaluation is None else _plain(_public_summary(evaluation)),
        tables=[] if evaluation is None else list(map(_markdown, tables_of(evaluation))),
        arm=arm,
        is_chat=is_chat,
        prompt=safe_text(
            arm.system_prompt if is_chat else build_prompt(arm.system_prompt, "QUESTION")
        ),
        settings=safe_text(_settings(run.config_text or "")),
    )


def _metadata(exported: Exported) -> ModelCardData:
    """The part of a card that the Hub reads."""
    merged = exported.merged_dtype is not None
    found = ModelCardData(
        base_model=exported.base_on_hub,
        datasets=_dataset(exported.config.data.source),
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        tags=[TAG, "reinforcement-learning", "ppo", "lora"],
        model_name=exported.run.folder.resolve().name,
        eval_results=_results(exported) or None,
    )
    if found.base_model is not None:
        found["base_model_relation"] = "finetune" if merged else "adapter"
    return found


def _results(exported: Exported) -> list[EvalResult]:
    """The accuracy of this version, in the form of the Hub's ``model-index``."""
    evaluation, found = exported.run.evaluation, exported.evaluated
    if evaluation is None or found is None:
        return []
    data = public_path(evaluation.data)
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=_dataset(evaluation.data) or data,
            dataset_name=data,
            metric_type="accuracy",
            metric_name=f"greedy accuracy of {evaluation.num_questions} held-out questions",
            metric_value=found.accuracy.value,
        )
    ]


def _dataset(source: str) -> str | None:
    """The id of a dataset of the Hub; None for built-in questions and files."""
    try:
        name, _ = require_source(source)
    except DataError:
        return None
    return None if name in GENERATED or os.path.isfile(name) else name.partition(":")[0]


def _settings(config_text: str) -> str:
    """The settings that decided what a run learned, as TOML, without servers and folders."""
    found = tomllib.loads(config_text)
    kept = {name: found[name] for name in _SECTIONS if name in found}
    run = {key: found["run"][key] for key in _RUN_KEYS if key in found.get("run", {})}
    return tomli_w.dumps(_public_settings({**kept, "run": run}))


def _public_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, with `public_path` paths; only the keys of `_PATHS` are taken for paths."""
    found = {name: dict(section) for name, section in settings.items()}
    for name, key in _PATHS:
        value = found.get(name, {}).get(key)
        if isinstance(value, list):
            found[name][key] = list(map(public_path, value))
        elif value is not None:
            found[name][key] = public_path(value)
    return found


def public_path(path: str) -> str:
    """A path, a model, a source or a function as others may see it, without anything about a machine's folders.

    A path below the working directory is shown whole, and so is an id of the Hub.
    """
    found = Path(path)
    is_elsewhere = found.is_absolute() or path.startswith("~") or ".." in found.parts
    return found.name if is_elsewhere else path


def _public_summary(evaluation: Evaluation) -> str:
    return evaluation.model_copy(update={"data": public_path(evaluation.data)}).summary


def _markdown(table: TextTable) -> str:
    rows = [table.headings, ("---",) * len(table.headings), *table.rows]
    lines = ["| " + " | ".join(map(_plain, row)) + " |" for row in rows]
    return "\n".join([f"{_plain(table.caption)}:", "", *lines])


def _plain(text: str) -> str:
    """One line of Markdown that shows exactly this text: nothing in it is a tag, a link, emphasis or a cell's end."""
    return _MARKUP.sub(r"\\\g<0>", safe_line(text)).replace("<", "&lt;")


def _code(text: str) -> str:
    """A code span, which backticks in the text do not end."""
    line = safe_line(text)
    fence = "`" * (1 + max(map(len, _BACKTICKS.findall(line)), default=0))
    return f"`{line}`" if len(fence) == 1 else f"{fence} {line} {fence}"
