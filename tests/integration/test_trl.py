"""The same reward in TRL's own GRPOTrainer."""

import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from regime_w import ArmOutput, RewardConfig, arm_rewards, build_all_arms, build_prompt
from regime_w.trl import regime_w_reward
from trainer.data.word_problems import Split, word_problems

pytestmark = pytest.mark.slow

# A model with random weights never gives an answer, so only shorter completions can earn more here.
REWARD = RewardConfig(free_words=0, length_penalty_per_word=0.1)

ARMS = [arm for arm in build_all_arms() if arm.name in ("wolfram_0", "maudlin_0")]
NUM_GENERATIONS = 2
NUM_STEPS = 3


def test_grpo_trains_on_regime_w(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        # TRL imports much else that warns: vLLM, of which it wants another version, and old torch.jit code.
        warnings.simplefilter("ignore")
        from trl import GRPOConfig, GRPOTrainer

    rows = [
        {
            "prompt": build_prompt(arm.system_prompt, problem.question),
            "question": problem.question,
            "answer": problem.answer,
            "arm": arm.name,
        }
        for problem in islice(word_problems(Split.TRAIN, seed=3), NUM_STEPS)
        for arm in ARMS
    ]
    calls: list[tuple[dict[str, Any], list[float]]] = []
    reward = regime_w_reward(REWARD)

    def regime_w(**columns: Any) -> list[float]:
        rewards = reward(**columns)
        calls.append((columns, rewards))
        return rewards

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    group_size = len(ARMS) * NUM_GENERATIONS
    trainer = GRPOTrainer(
        model=model,
        args=GRPOConfig(
            output_dir=str(tmp_path),
            max_steps=NUM_STEPS,
            per_device_train_batch_size=group_size,
            num_generations=NUM_GENERATIONS,
            max_completion_length=8,
            temperature=1.0,
            learning_rate=1e-3,
            shuffle_dataset=False,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            scale_rewards="none",
        ),
        reward_funcs=regime_w,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_base),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    trainer.train()

    assert len(calls) == NUM_STEPS
    logged = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert logged == pytest.approx([sum(r) / len(r) for _, r in calls], abs=1e-6)
    for columns, rewards in calls:
        # Each step has one whole question: both arms with all their completions.
        assert len(set(columns["question"])) == 1
        assert sorted(columns["arm"]) == sorted([arm.name for arm in ARMS] * NUM_GENERATIONS)
        outputs = [
            ArmOutput.from_text(name, text)
            for name, text in zip(columns["arm"], columns["completions"], strict=True)
        ]
        gold = columns["answer"][0]
        assert tuple(rewards) == arm_rewards("", outputs, gold, config=REWARD)
    assert any(len(set(rewards)) > 1 for _, rewards in calls)
    moved = [p for name, p in trainer.model.named_parameters() if "lora_B" in name]
    assert any(bool(p.abs().max() > 0) for p in moved)
