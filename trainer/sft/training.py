"""Supervised fine-tuning of a LoRA adapter through TRL's SFTTrainer.

Each demonstration is trained under the prompt of a random arm, so that every arm is in distribution when PPO
starts; only solutions have a loss. vLLM can serve the adapter as it is.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, set_seed
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from inference_server.wire.prompts import PromptRenderer
from trainer.config.sections import SFTRunConfig
from trainer.console.progress import OnStep
from trainer.console.stop_signals import StopRequest, stop_signals
from trainer.errors import UsageError
from trainer.io.adapter_settings import base_advice, kept_dtype, kept_prompt_format
from trainer.io.base_record import BASE_FILE, keep_base, require_same_base
from trainer.io.durable import fsync_all
from trainer.io.kept_settings import CONFIG_FILE, keep_settings, require_as_kept
from trainer.io.locks import locked_folder
from trainer.io.run_layout import CHECKPOINTS_FOLDER, is_finished_sft, newest_sft_checkpoint
from trainer.model.adapter import attach_adapter
from trainer.model.attention import require_shared_rows
from trainer.model.base_files import load_tokenizer
from trainer.model.base_model import load_base
from trainer.model.device import compute_device
from trainer.model.dtype import with_default_dtype, with_dtype
from trainer.model.prompts import format_problem, renderer_of
from trainer.run_state.recorded_questions import QuestionRecord
from trainer.sft.callbacks import FiniteCallback, ProgressCallback, StopCallback
from trainer.sft.examples import data_sets, longest_tokens
from trainer.sft.output import require_output
from trainer.sft.scored_tokens import scoring_completions_only

_FREE_SETTINGS = ("output", "device", "trackers")
"""Settings that may change between a start and the next."""


def run_sft(config: SFTRunConfig, on_step: OnStep, say: Callable[[str], None]) -> Path | None:
    """Train and save the adapter, in the main thread.

    If ``config.output`` holds checkpoints of the same settings, training resumes from the newest one; if it holds the
    finished adapter, nothing is done. After SIGTERM or Ctrl-C the current step is finished and a checkpoint written.

    Args:
        config: Data, model and settings.
        on_step: Called every few steps with step, number of steps and loss.
        say: Gets lines about the data, the beginning, the held-out loss, a resume, a stop, and a tracker that fails.

    Returns:
        The adapter's folder; None if a signal has stopped the training.

    Raises:
        UsageError: The folder holds an adapter, or checkpoints, that other settings made or that another base has, or
            another process is at work in it.
        DataError: The data cannot be used.
        NonFiniteError: A loss or a weight is NaN or infinite; nothing of that step is saved.
        Stopped: A signal asked to stop before the first step.
    """
    output = config.output
    require_output(output)
    with stop_signals() as stop:
        with stop.waiting():
            if config.sft.packing:
                require_shared_rows(config.policy.base_model)
            tokenizer = load_tokenizer(config.policy.base_model)
            renderer = renderer_of(tokenizer, config.policy.base_model)
            config = _without_auto(config, renderer, compute_device(config.device), say)
        taken = f"another `sft` is at work in {output}; stop it, or choose another output"
        with locked_folder(output, taken=taken):
            return _train(config, tokenizer, renderer, stop, on_step, say)


def _train(
    config: SFTRunConfig,
    tokenizer: Any,
    renderer: PromptRenderer,
    stop: StopRequest,
    on_step: OnStep,
    say: Callable[[str], None],
) -> Path | None:
    """`run_sft`, once ``auto`` is resolved and no other process can write to the folder."""
    output = config.output
    with stop.waiting():
        # They are kept once nothing can be refused any more: until then they bind nobody to them.
        if (output / CONFIG_FILE).exists():
            require_as_kept(output / CONFIG_FILE, config, free=_FREE_SETTINGS)
        if is_finished_sft(output):
            say(f"{output} is finished; choose another output for another adapter")
            return output
        newest = newest_sft_checkpoint(output)
        if newest is None:
            (output / BASE_FILE).unlink(missing_ok=True)
        require_same_base(output, config.policy)
        trainer, record = _trainer(config, tokenizer, renderer, newest, say)
        # Before the others, so that no loss that is not finite is shown.
        trainer.add_callback(FiniteCallback(config.sft.learning_rate, config.policy.dtype))
        progress = ProgressCallback(config, on_step, say)
        trainer.add_callback(progress)
        trainer.add_callback(StopCallback(stop))
    keep_settings(output / CONFIG_FILE, config, free=_FREE_SETTINGS)
    record.write()
    with progress, scoring_completions_only():
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    step, num_steps = trainer.state.global_step, trainer.state.max_steps
    if step < num_steps:
        say(f"stopped at step {step}/{num_steps}; the same command resumes there")
        return None
    trainer.save_model(str(output))
    # So that after a power cut there is either the last checkpoint or the complete adapter.
    fsync_all(output)
    shutil.rmtree(output / CHECKPOINTS_FOLDER, ignore_errors=True)
    return output


def _trainer(
    config: SFTRunConfig,
    tokenizer: Any,
    renderer: PromptRenderer,
    newest: Path | None,
    say: Callable[[str], None],
) -> tuple[SFTTrainer, QuestionRecord]:
    """TRL's trainer with the adapter of the checkpoint ``newest``, or else the starting or a fresh one.

    Returns it with the record of its questions, which is still to be written.
    """
    device = compute_device(config.device)
    examples, held_out, record = data_sets(
        config, renderer, config.output / CHECKPOINTS_FOLDER, say
    )
    adapter = newest or config.starting_adapter
    if adapter is not None:
        say(f"{'starting' if newest is None else 'resuming'} from {adapter}")
    base = load_base(config.policy, device)
    keep_base(config.output, config.policy)
    # A fresh adapter is drawn at random.
    set_seed(config.sft.seed)
    policy = config.policy.model_copy(update={"adapter": adapter})
    if newest is None:
        for line in base_advice(policy):
            say(f"warning: {line}")
    # PEFT writes an adapter of this name into the folder itself, and others into folders of their names.
    model = attach_adapter(base, policy, "default")
    weights = [(p, p.data.float()) for p in model.parameters() if p.requires_grad]
    trainer = SFTTrainer(
        model=model,
        args=_trl_config(
            config,
            device,
            examples_per_pass=config.sft.examples_per_pass(longest_tokens(examples, held_out)),
            evaluates=bool(held_out),
            is_fresh=newest is None,
        ),
        train_dataset=examples,
        eval_dataset=held_out,
        processing_class=tokenizer,
    )
    # On a 4-bit base TRL casts the adapter to bfloat16, which is too coarse for the updates.
    for parameter, weight in weights:
        parameter.data = weight
    # It would print dicts between our own lines.
    trainer.remove_callback(PrinterCallback)
    return trainer, record


def _without_auto(
    config: SFTRunConfig, renderer: PromptRenderer, device: torch.device, say: Callable[[str], None]
) -> SFTRunConfig:
    """Replace ``auto`` by what an earlier start has kept, or else by what suits the model and the machine.

    Raises:
        UsageError: The base model cannot have prompts in ``prompt_format``.
    """
    kept = config.output / CONFIG_FILE
    policy = with_dtype(config.policy, kept_dtype(kept) or "auto")
    policy = with_default_dtype(policy, device, say)
    prompt_format = config.prompt_format
    if flaw := format_problem(renderer, prompt_format):
        raise UsageError(f"rollout.prompt_format or --prompt_format is {flaw}")
    if prompt_format == "auto":
        prompt_format = kept_prompt_format(kept) or renderer.resolve("auto")
        if line := renderer.unusable_template:
            say(line)
    return config.model_copy(update={"policy": policy, "prompt_format": prompt_format})


def _trl_config(
    config: SFTRunConfig,
    device: torch.device,
    *,
    examples_per_pass: int,
    evaluates: bool,
    is_fresh: bool,
) -> TrlConfig:
    sft = config.sft
    return TrlConfig(
        output_dir=str(config.output / CHECKPOINTS_FOLDER),
        num_train_epochs=sft.num_epochs,
        learning_rate=sft.learning_rate,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=examples_per_pass,
        gradient_accumulation_steps=sft.batch_size // examples_per_pass,
        per_device_eval_batch_size=examples_per_pass,
        completion_only_loss=True,
        packing=sft.packing,
        # Evaluated without packing, so that the held-out loss is of the same text in either case.
        eval_packing=False,
        max_length=sft.packed_row_tokens if sft.packing else None,
        logging_steps=5,
        logging_first_step=True,
        # Otherwise a loss of NaN is logged as the mean of the others.
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=sft.evaluate_every if evaluates else None,
        eval_on_start=evaluates and is_fresh,
        save_strategy="steps",
        save_steps=sft.checkpoint_every,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
        bf16=config.policy.autocast and config.policy.dtype != "float16",
        fp16=config.policy.autocast and config.policy.dtype == "float16" and device.type != "cpu",
        gradient_checkpointing=config.policy.gradient_checkpointing,
        seed=sft.seed,
        dataloader_pin_memory=device.type != "cpu",
    )
