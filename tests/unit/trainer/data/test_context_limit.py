"""Questions that are too long for the model's context are left out before anybody asks them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from regime_w import ArmSpec, build_prompt
from tests.unit.versions_in_memory import STATUS
from trainer.config.sections import RolloutConfig
from trainer.data.context_limit import drop_overlong
from trainer.data.sources import Record

MAX_TOKENS = 6
ARMS = tuple(
    ArmSpec(name=name, system_prompt=system_prompt, temperature=1.0, top_p=1.0)
    for name, system_prompt in (("short", "Solve."), ("long", "Solve it in three careful steps."))
)
ROLLOUT = RolloutConfig(max_tokens=MAX_TOKENS, arms=ARMS)


def record(number: int, question: str) -> Record:
    return Record(id=f"q{number}", question=question, gold="#### 1")


def fit(records: list[Record], base: str, limit: int) -> tuple[list[Record], list[str]]:
    limits = STATUS.limits.model_copy(update={"max_model_len_tokens": limit})
    said: list[str] = []
    found = drop_overlong(
        records, base, ROLLOUT, STATUS.model_copy(update={"limits": limits}), said.append
    )
    return found, said


@pytest.fixture(scope="module")
def num_tokens(tiny_base: Path) -> Callable[[str], int]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    return lambda question: max(
        len(tokenizer(build_prompt(arm.system_prompt, question)).input_ids) for arm in ARMS
    )


@pytest.mark.parametrize("question", ["What is 2 + 3?", "Wie groß ist die Ξ-Zahl " * 9])
@pytest.mark.parametrize(("room", "fits"), [(-1, False), (0, True), (1, True)])
def test_the_longest_prompt_and_its_completion_must_fit(
    question: str, room: int, fits: bool, tiny_base: Path, num_tokens: Callable[[str], int]
) -> None:
    limit = num_tokens(question) + MAX_TOKENS + room
    asked = [record(1, question), record(2, "1?")]
    found, said = fit(asked, str(tiny_base), limit)
    assert [r.id for r in found] == (["q1", "q2"] if fits else ["q2"])
    assert (said == []) is fits
    if said:
        assert "1 of 2 questions left out, such as q1" in said[0]
        assert f"context of {limit}" in said[0]


def test_none_may_be_left(tiny_base: Path) -> None:
    found, said = fit([record(1, "What?")], str(tiny_base), MAX_TOKENS + 1)
    assert found == []
    assert "1 of 1" in said[0]


def test_without_a_tokenizer_the_server_decides(tmp_path: Path) -> None:
    asked = [record(1, "What?")]
    assert fit(asked, str(tmp_path / "not-here"), 1) == (asked, [])
