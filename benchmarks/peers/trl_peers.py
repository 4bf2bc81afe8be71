"""TRL's own trainers on our tasks, each in a process of its own; run by trl_grpo.py and trl_real_model.py.

A step has the size of ours: 128 completions by one policy, and four optimizer steps of 32 completions. TRL samples eight
completions of one prompt, the first arm's, at one temperature. The adapter is saved after every step; the time that this
takes does not count.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.arguments import benchmark_parser
from benchmarks.learning.tasks import QUESTIONS_PER_STEP
from benchmarks.peers.trl_async_on_cpu import chat_tokenizer, make_async_run_on_cpu
from regime_w.trl import regime_w_reward
from trainer.io.jsonl import read_lines

GENERATIONS = 8
UPDATES_PER_STEP = 4
TIMES_FILE = "times.json"

_reward = regime_w_reward()


def regime_w(**columns: Any) -> list[float]:
    """The reward, under a name that the asynchronous trainer's rollout process can import."""
    return _reward(**columns)


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("peer", choices=("grpo", "async"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sft", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument(
        "--questions", type=Path, required=True, help="those of all steps, JSON Lines"
    )
    parser.add_argument("--system-prompt", required=True)
    parser.add_argument("--prompt-format", choices=("plain", "chat"), required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--temperature", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument(
        "--warm-up-steps", type=int, default=0, help="of grpo, before the measured run"
    )
    parser.add_argument("--url", help="URL of the vLLM server, for async")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    {"grpo": train_grpo, "async": train_async}[arguments.peer](arguments)


def train_grpo(arguments: argparse.Namespace) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(arguments.threads)

    def make_trainer(settings: dict[str, Any]) -> Any:
        base = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
        return GRPOTrainer(
            model=PeftModel.from_pretrained(base, arguments.sft, is_trainable=True),
            args=GRPOConfig(**settings, steps_per_generation=UPDATES_PER_STEP, use_cpu=True),
            reward_funcs=regime_w,
            train_dataset=questions(arguments, as_chat=arguments.prompt_format == "chat"),
            processing_class=AutoTokenizer.from_pretrained(arguments.model),
        )

    settings = shared_settings(arguments)
    if arguments.warm_up_steps:
        max_steps = arguments.warm_up_steps * UPDATES_PER_STEP
        with tempfile.TemporaryDirectory() as folder:
            make_trainer({**settings, "max_steps": max_steps, "output_dir": folder}).train()
    train(make_trainer(settings), arguments)


def train_async(arguments: argparse.Namespace) -> None:
    import torch
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file
    from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer

    torch.set_num_threads(arguments.threads)
    make_async_run_on_cpu()
    lora = LoraConfig.from_pretrained(arguments.sft)
    lora.inference_mode = False
    trainer = AsyncGRPOTrainer(
        model=str(arguments.model),
        args=AsyncGRPOConfig(
            **shared_settings(arguments),
            vllm_server_base_url=arguments.url,
            # A fixed number of completions per update instead of as many as fit a context.
            token_budget=0,
            weight_sync_steps=UPDATES_PER_STEP,
            max_staleness=1,
            max_inflight_tasks=2 * QUESTIONS_PER_STEP * GENERATIONS,
            use_cpu=True,
        ),
        reward_funcs=regime_w,
        train_dataset=questions(arguments, as_chat=True),
        processing_class=chat_tokenizer(arguments.model),
        peft_config=lora,
    )
    set_peft_model_state_dict(trainer.model, load_file(arguments.sft / "adapter_model.safetensors"))
    train(trainer, arguments)


def shared_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "output_dir": str(arguments.folder / "output"),
        "max_steps": arguments.steps * UPDATES_PER_STEP,
        "per_device_train_batch_size": QUESTIONS_PER_STEP * GENERATIONS // UPDATES_PER_STEP,
        "gradient_accumulation_steps": 1,
        "num_generations": GENERATIONS,
        "max_completion_length": arguments.max_tokens,
        "temperature": arguments.temperature,
        "learning_rate": arguments.learning_rate,
        "lr_scheduler_type": "linear",
        "seed": arguments.seed,
        "logging_steps": UPDATES_PER_STEP,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }


def questions(arguments: argparse.Namespace, *, as_chat: bool) -> Any:
    from datasets import Dataset

    from regime_w import build_prompt

    system_prompt = arguments.system_prompt
    return Dataset.from_list(
        [
            {
                "prompt": [
                    {"role": "system", "content": system_prompt},
                    {"role": "user", "content": record["question"]},
                ]
                if as_chat
                else build_prompt(system_prompt, record["question"]),
                "question": record["question"],
                "answer": record["answer"],
            }
            for record in (json.loads(line) for _, line in read_lines(arguments.questions))
        ]
    )


def train(trainer: Any, arguments: argparse.Namespace) -> None:
    """Train; after every step, save the adapter and record the seconds until then."""
    from transformers import TrainerCallback

    folder: Path = arguments.folder
    seconds: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.started = self.written_s = 0.0

        def on_train_begin(self, *ignored: object, **more: object) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, args: object, state: Any, *ignored: object, **more: object) -> None:
            if state.global_step % UPDATES_PER_STEP == 0:
                now = time.perf_counter()
                seconds.append(now - self.started - self.written_s)
                trainer.model.save_pretrained(folder / f"step-{len(seconds):06d}")
                self.written_s += time.perf_counter() - now

    # Added last, so that it runs after the weight sync, which is part of the step.
    trainer.add_callback(Clock())
    trainer.train()
    rows = [row for row in trainer.state.log_history if "reward" in row]
    (folder / TIMES_FILE).write_text(json.dumps({"seconds": seconds, "logs": rows}))


if __name__ == "__main__":
    main()
