"""The reward as a function that TRL's trainers call."""

import math
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import pytest

from regime_w import ArmOutput, RewardConfig, arm_rewards
from regime_w.trl import regime_w_reward

RIGHT, WRONG = "12 + 7 = 19\n#### 19", "12 - 7 = 5\n#### 5"


def expected(names: list[str], texts: list[str], config: RewardConfig) -> list[float]:
    outputs = [ArmOutput.from_text(n, t) for n, t in zip(names, texts, strict=True)]
    return list(arm_rewards("", outputs, "#### 19", config=config))


@pytest.mark.parametrize("credit", ["per_arm", "shared", "difference"])
def test_completions_of_a_prompt_are_a_group(credit: str) -> None:
    config = RewardConfig.model_validate({"credit": credit})
    texts = [RIGHT, WRONG, RIGHT]
    found = regime_w_reward(config)(prompts=["q"] * 3, completions=texts, answer=["#### 19"] * 3)
    assert found == expected(["arm_0", "arm_1", "arm_2"], texts, config)


def test_groups_may_be_interleaved_and_rewards_keep_the_order() -> None:
    reward = regime_w_reward()
    found = reward(
        prompts=["a", "b", "a", "b"],
        completions=[RIGHT, WRONG, WRONG, WRONG],
        answer=["#### 19", "#### 5"] * 2,
    )
    alone = [
        reward(prompts=["a"] * 2, completions=[RIGHT, WRONG], answer=["#### 19"] * 2),
        reward(prompts=["b"] * 2, completions=[WRONG, WRONG], answer=["#### 5"] * 2),
    ]
    assert found == [alone[0][0], alone[1][0], alone[0][1], alone[1][1]]


def test_arms_of_a_question_are_a_group_across_prompts() -> None:
    names, texts = ["wolfram_0", "maudlin_0"], [RIGHT, RIGHT]
    columns = {"question": ["q", "q"], "arm": names, "answer": ["#### 19"] * 2}
    found = regime_w_reward()(prompts=["be precise q", "reflect q"], completions=texts, **columns)
    assert found == expected(names, texts, RewardConfig())
    assert found == pytest.approx([1.7, 1.7])  # the families cross-check one another


def test_of_a_chat_the_assistant_counts() -> None:
    chat = [
        {"role": "assistant", "content": "12 + 7 = 19"},
        {"role": "tool", "content": "#### 3"},
        {"role": "assistant", "content": "#### 19"},
        {"role": "assistant", "content": None},
    ]
    prompt = [{"role": "user", "content": "q"}]
    found = regime_w_reward()(
        prompts=[prompt, prompt], completions=[chat, [{"role": "assistant", "content": WRONG}]],
        answer=["#### 19"] * 2,
    )  # fmt: skip
    assert found == expected(["arm_0", "arm_1"], ["12 + 7 = 19\n#### 19", WRONG], RewardConfig())


def test_what_else_trl_passes_is_ignored() -> None:
    reward = regime_w_reward()
    assert reward(
        prompts=["q"], completions=[WRONG], answer=["#### 19"], completion_ids=[[1]],
        trainer_state=object(), log_metric=print, difficulty=["hard"],
    ) == [-0.5]  # fmt: skip


def test_an_empty_batch_has_no_rewards() -> None:
    assert regime_w_reward()(prompts=[], completions=[], answer=[]) == []


def test_a_dataset_without_answers_is_an_error_that_names_the_column() -> None:
    with pytest.raises(ValueError, match="no column 'answer'"):
        regime_w_reward()(prompts=["q"], completions=[RIGHT])


def test_trl_logs_it_under_its_name() -> None:
    assert regime_w_reward().__name__ == "regime_w"


def test_importing_it_loads_neither_torch_nor_trl() -> None:
    program = "import sys, regime_w.trl; assert not {'torch', 'trl'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


@pytest.mark.parametrize("gold", [19, 19.0, Fraction(19), Decimal("19.00"), "19", "#### 19"])
def test_golds_may_be_numbers(gold: object) -> None:
    texts = [RIGHT, WRONG]
    found = regime_w_reward()(prompts=["q"] * 2, completions=texts, answer=[gold] * 2)
    assert found == expected(["arm_0", "arm_1"], texts, RewardConfig())


def test_a_row_without_a_gold_answer_is_not_judged() -> None:
    assert regime_w_reward()(prompts=["q"], completions=[RIGHT], answer=[None]) == [-0.5]


@pytest.mark.parametrize(
    "gold", ["12:00", "5 or 6", "", "She has 19", math.nan, math.inf, True, ["19"], {"a": 19}]
)
def test_a_gold_that_is_not_one_number_is_an_error_that_names_the_row(gold: object) -> None:
    with pytest.raises(ValueError, match=r"^answer: row 1 of the batch: .* is not one number"):
        regime_w_reward()(prompts=["p", "q"], completions=[RIGHT] * 2, answer=["19", gold])


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": RIGHT}],
        [{"type": "text", "text": RIGHT[:5]}, {"type": "text", "text": RIGHT[5:]}],
        [{"type": "image"}, RIGHT, {"type": "text", "text": None}],
    ],
)
def test_the_content_of_a_chat_may_be_parts(content: object) -> None:
    chat = [{"role": "assistant", "content": content}, {"role": "assistant", "content": 7}]
    found = regime_w_reward()(prompts=["q"], completions=[chat], answer=["19"])
    assert found == expected(["arm_0"], [RIGHT], RewardConfig())
    assert found[0] > 1


def test_golds_that_differ_within_a_group_are_an_error_that_names_the_row() -> None:
    reward = regime_w_reward()
    with pytest.raises(ValueError, match="row 1 of the batch: '5'"):
        reward(prompts=["p", "p"], completions=[RIGHT, WRONG], answer=["19", "5"])


@pytest.mark.parametrize("column", ["answer", "question", "arm"])
def test_lists_of_other_lengths_are_an_error_that_names_the_column(column: str) -> None:
    columns = {"answer": ["19", "19"], "question": ["q", "q"], "arm": ["a", "b"]}
    columns[column] = columns[column][:1]
    with pytest.raises(ValueError, match=f"{column}: 1 rows for 2 completions"):
        regime_w_reward()(prompts=["p", "p"], completions=[RIGHT, WRONG], **columns)


def test_a_thought_that_the_prompt_begins_is_no_answer_where_it_is_cut_off() -> None:
    cut, whole = "3 + 4 = 7\n#### 7\nHm, or", "3 + 4 = 7</think>#### 7"
    begun, plain = (
        regime_w_reward()(prompts=[prompt] * 2, completions=[cut, whole], answer=["7", "7"])
        for prompt in ("3 + 4? <think>\n", "3 + 4?")
    )
    assert begun[0] < 0 < begun[1]
    assert plain[0] > 0
