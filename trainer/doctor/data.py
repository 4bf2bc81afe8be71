"""Checks whether a run's questions can be read, in the way in which its start reads them, and put into prompts."""

from collections.abc import Iterator

from inference_server.wire.settings.errors import first_line
from trainer.config.sections import DoctorConfig
from trainer.data.held_out import is_on_hub, sources_of
from trainer.data.source_names import require_source
from trainer.data.sources import load_records
from trainer.doctor.results import CheckResult, bad, note, ok
from trainer.errors import TrainerError, UsageError
from trainer.model.prompts import format_problem, load_renderer


def check_prompts(config: DoctorConfig) -> Iterator[CheckResult]:
    """A result if the base model's tokenizer is damaged, or its prompts cannot have the configured format."""
    try:
        flaw = format_problem(load_renderer(config.model), config.rollout.prompt_format)
    except UsageError as error:
        yield bad("tokenizer", first_line(error), "policy.base_model, or copy the model again")
    else:
        if flaw is not None:
            yield bad("prompts", f"rollout.prompt_format is {flaw}", "rollout.prompt_format")


def check_data(config: DoctorConfig) -> Iterator[CheckResult]:
    """One result for each source that the run reads; nothing is downloaded."""
    data = config.data
    for each in sources_of(config):
        try:
            source = each.required(data)
            name, _ = require_source(source)
            if is_on_hub(name):
                text = f"{source}: a dataset of the Hub, which is read when the run starts"
                yield note("data", text, each.setting)
                continue
            records = load_records(
                source,
                each.split,
                num_records=each.num_questions,
                seed=data.seed,
                shape=data.shape,
            )
        except TrainerError as error:
            yield bad("data", first_line(error), each.setting)
        else:
            yield ok(
                "data",
                f"{source}: the {len(records):,} questions that the run takes can be read ({each.setting})",
            )
