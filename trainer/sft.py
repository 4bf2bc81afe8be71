"""Supervised fine-tuning of a LoRA adapter through TRL's SFTTrainer.

The prompts are the arms' prompts, mixed over arms, so that every arm is in distribution when PPO
starts; the loss is on the solutions alone. The adapter is one that vLLM serves as it is.
"""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from regime_w import build_all_arms, build_prompt
from trainer.config import SFTConfig
from trainer.data import load_demonstrations

_ANNOTATION = re.compile(r"<<[^<>]*>>")


class _Progress(TrainerCallback):  # type: ignore[misc]
    """Hands TRL's log lines to whoever shows progress."""

    def __init__(self, on_step: Callable[[int, int, float], None]):
        self._on_step = on_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self._on_step(state.global_step, state.max_steps, float(logs["loss"]))


def _examples(config: SFTConfig) -> Dataset:
    """Rows of ``prompt`` and ``completion``; calculator annotations are not for the model."""
    arms, rng = build_all_arms(), random.Random(f"sft/{config.seed}")
    demonstrations = load_demonstrations(config.source, num_examples=config.num_examples)
    return Dataset.from_list(
        [
            {
                "prompt": build_prompt(rng.choice(arms).system_prompt, question),
                "completion": _ANNOTATION.sub("", solution),
            }
            for question, solution in demonstrations
        ]
    )


def run_sft(config: SFTConfig, on_step: Callable[[int, int, float], None]) -> Path:
    """Train and save the adapter; returns its folder.

    Args:
        config: What to train on what.
        on_step: Called now and then with step, number of steps and loss.
    """
    tokenizer = AutoTokenizer.from_pretrained(config.policy.base_model)
    model = AutoModelForCausalLM.from_pretrained(
        config.policy.base_model, dtype=getattr(torch, config.policy.dtype)
    )
    use_cpu = not torch.cuda.is_available()
    trainer = SFTTrainer(
        model=model,
        args=TrlConfig(
            output_dir=str(config.output),
            num_train_epochs=config.num_epochs,
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",
            per_device_train_batch_size=config.batch_size,
            completion_only_loss=True,
            max_length=None,
            logging_steps=5,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=use_cpu,
            bf16=not use_cpu,
            gradient_checkpointing=config.policy.gradient_checkpointing,
            seed=config.seed,
            dataloader_pin_memory=not use_cpu,
        ),
        train_dataset=_examples(config),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=config.policy.lora_rank,
            lora_alpha=config.policy.lora_alpha,
            target_modules=list(config.policy.target_modules),
            # PPO scores tokens with this adapter as the server does, without dropout.
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        ),
        callbacks=[_Progress(on_step)],
    )
    # Its dicts would run between our own lines.
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model(str(config.output))
    return config.output
