"""The last lines of a training command."""

import json
from pathlib import Path

import pytest

from trainer.commands.finished import adapter_text, finished_text, sft_text

ADAPTER = Path("run/adapters/policy-000006")


def evaluation(step: int, accuracy: float, **best: float) -> dict[str, float]:
    return {"eval/step": step, "eval/accuracy": accuracy} | {
        f"eval/{k}": v for k, v in best.items()
    }


START = evaluation(0, 0.72)
SECOND = evaluation(2, 0.92, best_accuracy=0.92, best_step=2)
LAST = {"step": 6, **evaluation(6, 0.88, best_accuracy=0.92, best_step=2)}


@pytest.mark.parametrize(
    ("evaluations", "late", "line"),
    [
        ({}, [], None),
        ({1: START}, [], None),
        (
            *({1: START, 3: SECOND}, [LAST]),
            "held-out accuracy: 72.0% at the start, 88.0% at step 6; the best 92.0% at step 2 (`export --best` takes it)",
        ),
        (
            *({3: SECOND}, []),
            "held-out accuracy: 92.0% at step 2; the best 92.0% at step 2 (`export --best` takes it)",
        ),
    ],
)
def test_a_finished_run_says_how_long_it_took_what_came_of_it_and_what_is_next(
    evaluations: dict[int, dict[str, float]],
    late: list[dict[str, float]],
    line: str | None,
    tmp_path: Path,
) -> None:
    rows = [{"step": s, "time/step_s": 1000.0, **evaluations.get(s, {})} for s in range(1, 7)]
    text = "".join(json.dumps(row) + "\n" for row in (*rows, *late))
    (tmp_path / "metrics.jsonl").write_text(text)
    first, *middle, last = finished_text(tmp_path, step=6, adapter=ADAPTER).splitlines()
    took = "1 h 40 min of training"
    assert first == f"{tmp_path} is finished: step 6, {took}; newest adapter {ADAPTER}"
    assert middle == [line] * (line is not None)
    assert last.startswith(f"python -m trainer report {tmp_path} ")
    said = adapter_text(tmp_path, ADAPTER)
    assert said.startswith(f"adapter in {ADAPTER}, {took}; python -m trainer report {tmp_path}")
    report = f"python -m trainer report {tmp_path} shows the losses"
    assert sft_text(tmp_path) == f"adapter in {tmp_path}; {report}"
    (tmp_path / "metrics.jsonl").unlink()
    lost = f"its losses are missing: there is no {tmp_path / 'metrics.jsonl'}"
    assert sft_text(tmp_path) == f"adapter in {tmp_path}; {lost}"


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": s, "time/step_s": 9.0} for s in (4, 5, 6)],
        # Steps that were computed again after their metrics were lost have no time.
        [{"step": 1}, {"step": 2}, *({"step": s, "time/step_s": 9.0} for s in (3, 4, 5, 6))],
    ],
)
def test_the_time_of_training_is_left_out_where_steps_lack_theirs(
    rows: list[dict[str, float]], tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, *_ = finished_text(tmp_path, step=6, adapter=ADAPTER).splitlines()
    assert first == f"{tmp_path} is finished: step 6; newest adapter {ADAPTER}"
    said = adapter_text(tmp_path, ADAPTER)
    assert said.startswith(f"adapter in {ADAPTER}; python -m trainer report {tmp_path}")
