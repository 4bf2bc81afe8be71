"""Whether the questions of a run can be read, as its start reads them."""

from collections.abc import Iterator

from trainer.config.sections import DoctorConfig
from trainer.data.held_out import is_on_hub, require_held_out
from trainer.data.sources import load_records, require_source
from trainer.data.word_problems import Split
from trainer.doctor.results import CheckResult, bad, note, ok
from trainer.errors import TrainerError, first_line
from trainer.io.kept_settings import CONFIG_FILE


def check_data(config: DoctorConfig) -> Iterator[CheckResult]:
    """One result for each source that the run reads; nothing is downloaded."""
    data, run = config.data, config.run
    sources = [("data.source", Split.TRAIN, data.num_questions)]
    # A run of before questions had to be named goes on without a name.
    has_begun = (run.folder / CONFIG_FILE).exists()
    if run.evaluate_every is not None and (data.held_out_source is not None or not has_begun):
        sources.append(("data.evaluation_source", Split.HELD_OUT, run.num_evaluation_questions))
    for setting, split, number in sources:
        try:
            source = data.source
            if split is Split.HELD_OUT:
                source = require_held_out(data, "run.evaluate_every")
            name, _ = require_source(source)
            if is_on_hub(name):
                yield note("data", f"{source}: a data set of the Hub, which a start reads", setting)
                continue
            records = load_records(
                source, split, num_records=number, seed=data.seed, shape=data.shape
            )
        except TrainerError as error:
            yield bad("data", first_line(error), setting)
        else:
            yield ok("data", f"{source}: {len(records):,} questions can be read ({setting})")
