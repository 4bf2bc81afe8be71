"""Whether the questions of a run can be read, as its start reads them."""

from collections.abc import Iterator

from trainer.config.sections import DoctorConfig
from trainer.data.held_out import is_on_hub, names_held_out, require_held_out
from trainer.data.sources import load_records, require_source
from trainer.data.word_problems import Split
from trainer.doctor.results import CheckResult, bad, note, ok
from trainer.errors import TrainerError
from trainer.io.kept_settings import CONFIG_FILE


def check_data(config: DoctorConfig) -> Iterator[CheckResult]:
    """One result for each source that the run reads; nothing is downloaded."""
    data, run = config.data, config.run
    sources = [("data.source", data.source, Split.TRAIN, data.num_questions)]
    if run.evaluate_every is not None:
        number = run.num_evaluation_questions
        sources.append(("data.evaluation_source", data.evaluation_source, Split.HELD_OUT, number))
    # A run that has begun goes on with what it has.
    has_begun = (run.folder / CONFIG_FILE).exists()
    for setting, source, split, number in sources:
        try:
            if split is Split.HELD_OUT and not names_held_out(data) and not has_begun:
                require_held_out(data.source, "run.evaluate_every")
            name, _ = require_source(source)
            if is_on_hub(name):
                yield note("data", f"{source}: a data set of the Hub, which a start reads", setting)
                continue
            records = load_records(
                source, split, num_records=number, seed=data.seed, shape=data.shape
            )
        except TrainerError as error:
            yield bad("data", str(error).splitlines()[0], setting)
        else:
            yield ok("data", f"{source}: {len(records):,} questions can be read ({setting})")
