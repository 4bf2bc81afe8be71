"""What a group becomes: samples for PPO, and a row of rollouts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.schemas import FinishReason
from regime_w import RewardConfig, answer_type_of
from regime_w.counterfactual.pairs import PairedQuestion
from tests.unit.groups import RECORDS, REWARD, group_of
from trainer.data.sources import Record
from trainer.rollouts.files import format_of_file
from trainer.rollouts.groups import RolloutBatch, score_group
from trainer.rollouts.rows import RolloutRow, rollout_lines, rollout_row


def test_a_group_becomes_samples_with_its_tokens_and_its_own_rewards() -> None:
    record = RECORDS[2]
    group = group_of(record, 12, FinishReason.STOP, FinishReason.LENGTH, FinishReason.STOP)
    scored = score_group(record, group, REWARD)
    right, wrong, other_wrong = scored.samples
    # Nobody agrees with the right arm; the texts are equally long, so s_path is 1; s_cf is 0.5.
    assert right.reward == pytest.approx(1 + 0.7 * (0.3 * 1 + 0.3 * 0.5), abs=1e-5)
    assert wrong.reward == other_wrong.reward == pytest.approx(-0.5)
    for sample, arm in zip(scored.samples, group.arms, strict=True):
        assert sample.prompt_ids == tuple(arm.prompt_token_ids)
        assert sample.completion_ids == tuple(arm.token_ids)
        assert sample.sampler_logprobs == tuple(arm.logprobs)
        assert (sample.temperature, sample.top_p, sample.version) == (0.25, 0.9, 12)
    assert [sample.truncated for sample in scored.samples] == [False, True, False]


@pytest.mark.parametrize("selection", ["best", "random"])
def test_a_selection_trains_one_completion_and_journals_all(selection: str) -> None:
    record = RECORDS[2]
    group = group_of(record, 12, FinishReason.STOP, FinishReason.LENGTH, FinishReason.STOP)
    config = REWARD.model_copy(update={"selection": selection})
    scored = score_group(record, group, config)
    (sample,) = scored.samples
    (place,) = scored.trained
    assert sample.reward == scored.rewards[place]
    assert selection == "random" or place == 0  # the only right one
    row = rollout_row(scored, step=5)
    assert [arm["trained"] for arm in row["arm_outputs"]] == [i == place for i in range(3)]  # type: ignore[attr-defined]
    assert score_group(record, group, config).trained == scored.trained  # decided by the record


@pytest.mark.parametrize("stop", [(), ("\n\nQuestion:",)])
@pytest.mark.parametrize("prompt_format", ["chat", "plain", None])
def test_a_journal_line_says_how_its_prompts_were_rendered(
    prompt_format: PromptFormat | None, stop: tuple[str, ...], tmp_path: Path
) -> None:
    asked = {"prompt_format": prompt_format, "stop": stop}
    group = group_of(RECORDS[2], 12, FinishReason.STOP).model_copy(update=asked)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rollout_lines([score_group(RECORDS[2], group, REWARD)], 5))
    row = RolloutRow.model_validate_json(path.read_bytes())
    assert (row.prompt_format, row.stop) == (prompt_format, stop)
    again = row.scored(REWARD).group
    assert (again.prompt_format, again.stop) == (prompt_format, stop)
    assert format_of_file(path) == (prompt_format or "plain")


def test_a_journal_line_holds_the_recipes_fields_and_every_token() -> None:
    record = RECORDS[2]
    group = group_of(record, 12, FinishReason.STOP, FinishReason.LENGTH)
    scored = score_group(record, group, REWARD)
    row = json.loads(json.dumps(rollout_row(scored, step=5)))
    assert row["step"] == 5
    assert (row["question"], row["gold_answer"]) == (record.question, record.gold)
    assert row["policy_version"] == 12
    assert row["reward"] == pytest.approx(sum(scored.rewards) / 2)
    assert row["scores"].keys() == {"s_end", "s_path", "s_cf", "s_wm"}
    assert "chsh" not in row
    crossed = replace(scored, scores=replace(scored.scores, chsh=(-3.0, -1.0, 1.0, 1.0)))
    assert rollout_row(crossed, step=5)["chsh"] == (-3.0, -1.0, 1.0, 1.0)
    first, second = row["arm_outputs"]
    assert [(arm["answer"], arm["correct"]) for arm in (first, second)] == [
        ("3", True),
        ("1000", False),
    ]
    assert [arm["reward"] for arm in (first, second)] == list(scored.rewards)
    assert [arm["finish_reason"] for arm in (first, second)] == ["stop", "length"]
    for arm in (first, second):
        assert arm["prompt_token_ids"] == [1, 2]
        assert arm["token_ids"] == [3, 4, 5]
        assert arm["sampler_logprobs"] == [-0.5, -0.25, -1.0]
        assert (arm["temperature"], arm["top_p"]) == (0.25, 0.9)
    stored = RolloutRow.model_validate(row)
    assert stored.samples == scored.samples
    again = stored.scored(REWARD)
    assert (again.rewards, again.trained, again.scores) == (
        scored.rewards,
        scored.trained,
        scored.scores,
    )


def test_a_row_keeps_the_type_of_the_answer_and_is_scored_by_it() -> None:
    group = group_of(RECORDS[2], 12, FinishReason.STOP, FinishReason.STOP)
    texts = ("#### London", "#### 1000")
    arms = [a.model_copy(update={"text": t}) for a, t in zip(group.arms, texts, strict=True)]
    record = Record(
        id="q",
        question="Where?",
        gold="B",
        answer_type=answer_type_of("choice", ["Rome", "London"]),
    )
    scored = score_group(record, group.model_copy(update={"arms": arms}), REWARD)
    assert scored.scores.answers == ("B", None)
    assert scored.scores.correct == (True, False)
    row = json.loads(json.dumps(rollout_row(scored)))
    assert (row["answer_type"], row["choices"]) == ("choice", ["Rome", "London"])
    stored = RolloutRow.model_validate(row)
    assert stored.record == record
    assert stored.scored(REWARD).scores == scored.scores
    numbers = rollout_row(score_group(RECORDS[2], group, REWARD))
    assert not {"answer_type", "choices"} & numbers.keys()


def test_a_row_keeps_what_its_pair_answered_and_is_scored_with_it() -> None:
    record = RECORDS[2]
    arms = ("wolfram_0", "maudlin_0")
    group = group_of(record, 12, FinishReason.STOP, FinishReason.STOP, wrong="#### 3", names=arms)
    other = PairedQuestion(id="o", question="1 + 1?", gold_answer="#### 2", answers=("2", None))
    paired = score_group(record, group, RewardConfig(), other)
    alone = score_group(record, group, RewardConfig())
    # Two of the four contexts agree, which with a minus at either of them is the least that there can be.
    assert alone.scores.s_cf == 1
    assert paired.scores.s_cf == pytest.approx((2 / 4 + 0) / 2)
    assert other.correct == (True, False)
    row = json.loads(json.dumps(rollout_row(paired)))
    stored = RolloutRow.model_validate(row)
    again = stored.scored(RewardConfig())
    assert (again.scores, again.rewards) == (paired.scores, paired.rewards)
    assert "counterfactual" not in rollout_row(alone)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"answers": ["2"]}, "counterfactual.answers: 1 for 2 arm_outputs"),
        ({"gold_answer": "none"}, "gold_answer"),
        ({"gold": "2"}, "gold"),
    ],
)
def test_a_row_with_a_pair_that_cannot_be_is_refused(
    change: dict[str, object], fragment: str
) -> None:
    group = group_of(RECORDS[2], 12, FinishReason.STOP, FinishReason.STOP)
    row = rollout_row(score_group(RECORDS[2], group, REWARD))
    pair = {"id": "o", "question": "1 + 1?", "gold_answer": "#### 2", "answers": ["2", None]}
    RolloutRow.model_validate(row | {"counterfactual": pair})
    with pytest.raises(ValidationError, match=fragment):
        RolloutRow.model_validate(row | {"counterfactual": pair | change})


@pytest.mark.parametrize("outcomes", [(True, True), (True, False), (False, True), (False, False)])
def test_a_question_that_a_batch_asks_twice_is_solved_if_it_is_both_times(
    outcomes: tuple[bool, bool],
) -> None:
    record, other = RECORDS[:2]
    groups = [
        score_group(
            record,
            group_of(record, 1, *[FinishReason.STOP] * 2, wrong=record.gold if right else "#### 9"),
            REWARD,
        )
        for right in outcomes
    ]
    groups.append(score_group(other, group_of(other, 1, FinishReason.STOP), REWARD))
    batch = RolloutBatch(
        groups=tuple(groups[1:]),
        replaced=tuple(groups[:1]),
        version=1,
        generate_s=0.0,
        score_s=0.0,
        num_dropped_groups=0,
    )
    assert batch.solved == {record.id: all(outcomes), other.id: True}
