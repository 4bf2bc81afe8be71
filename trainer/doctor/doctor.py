"""Checks whether a run can start on this machine, and says which settings to change if it cannot."""

import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from inference_server.wire.base_files import base_folder
from inference_server.wire.hardware.prerequisites import installed_version
from inference_server.wire.settings.errors import first_line
from trainer.config.sections import DoctorConfig
from trainer.console.advice import ppo_advice
from trainer.doctor.data import check_data, check_prompts
from trainer.doctor.device import check_device, find_card
from trainer.doctor.disk import check_disk, check_model_files
from trainer.doctor.memory import check_memory, check_server_flags
from trainer.doctor.memory_parts import Part
from trainer.doctor.memory_plan import PROMPT_TOKENS, MemoryPlan, plan_memory
from trainer.doctor.model_shape import ModelShape, read_shape
from trainer.doctor.results import CheckResult, CheckStatus, bad, note, size_text
from trainer.doctor.server import ask_server, check_own_server
from trainer.doctor.sft_memory import check_sft, sft_parts
from trainer.doctor.stack import check_machine, check_versions
from trainer.doctor.start.adapter import starting_policy
from trainer.doctor.start.inputs import check_critic_rollouts, check_reward_functions
from trainer.doctor.start.run_folder import check_run_folder, check_trackers
from trainer.errors import UsageError
from trainer.io.adapter_settings import base_advice

_LOG_WIDTH = 140


def run_doctor(config: DoctorConfig) -> bool:
    """Run all checks, print the results, and return whether a run can start."""
    console = Console(width=None if sys.stdout.isatty() else _LOG_WIDTH)
    results = [
        *check_machine(installed_version),
        *check_versions(installed_version),
        *check_device(config, installed_version),
    ]
    model_files = [*check_model_files(config.model)]
    results += model_files
    if config.role != "server":
        lines = ppo_advice(config.ppo, config.rollout.max_tokens, config.run.num_steps)
        results += [note("ppo", line) for line in lines]
        results += check_data(config)
        if model_files[0].status is not CheckStatus.BAD:
            results += check_prompts(config)
    # Another machine or container, in which only the server starts, need not have what the trainer needs.
    trainer_starts = config.role != "server" and config.starts != "server"
    if trainer_starts:
        results += [
            *check_run_folder(config),
            *check_trackers(config),
            *check_critic_rollouts(config),
            *check_reward_functions(config),
        ]
    policy, flaw = starting_policy(config, reads_weights=trainer_starts)
    config = config.model_copy(update={"policy": policy})
    results += [] if flaw is None else [flaw]
    if trainer_starts:
        results += [note("adapter", line, "policy.base_model") for line in base_advice(policy)]
    is_nowhere = base_folder(config.model) is None and model_files[0].status is CheckStatus.BAD
    try:
        # If the model is nowhere, reading its shape would ask the Hub for it again and again.
        shape = None if is_nowhere else read_shape(config.model, config.policy.target_modules)
    except (UsageError, ValueError) as error:
        text = f"no plan without the model's configuration: {first_line(error)}"
        results.append(bad("memory", text, "policy.base_model"))
    else:
        results += [] if shape is None else _check_room(shape, config, console)
    is_asked = config.ask_server and config.role != "server"
    results += ask_server(config) if is_asked else check_own_server(config)
    console.print(results_table(results))
    what = "a run" if config.role == "both" else f"the {config.role}"
    num_bad = sum(result.status is CheckStatus.BAD for result in results)
    if num_bad:
        verdict = f"verdict: {what} would fail: {num_bad} of {len(results)} checks"
        console.print(verdict, style="red", highlight=False)
    else:
        console.print(f"verdict: {what} can start", style="green", highlight=False)
    return not num_bad


def _check_room(shape: ModelShape, config: DoctorConfig, console: Console) -> list[CheckResult]:
    """Print the memory plan, and check it and the disk."""
    card = find_card(config)
    plan = plan_memory(shape, config, card)
    server = list(_check_context(shape, config))
    if plan.server:
        server += check_server_flags(config, on_gpu=card.on_gpu)
    if not plan.trainer:
        console.print(plan_table(plan, ()))
        return [*check_memory(plan, shape, config, card), *server]
    sft = tuple(
        sft_parts(
            shape,
            config,
            prompt_tokens=PROMPT_TOKENS,
            completion_tokens=config.rollout.max_tokens,
            on_gpu=card.on_gpu,
        )
    )
    console.print(plan_table(plan, sft))
    return [
        *_check_layers(shape, config),
        *check_memory(plan, shape, config, card),
        *server,
        check_sft(sft, config, card),
        *check_disk(shape, config),
    ]


def _check_context(shape: ModelShape, config: DoctorConfig) -> Iterator[CheckResult]:
    """A result if the server's context is longer than the model takes, or has no room for a prompt."""
    longest = shape.max_position_tokens
    # A server on another machine has settings of its own.
    asked = None if config.role == "trainer" else config.serve.max_model_len
    if asked is not None and asked > longest:
        text = f"serve.max_model_len is {asked:,}, and the model takes {longest:,} tokens"
        yield bad("context", text, f"serve.max_model_len = {longest}")
    elif config.rollout.max_tokens >= (context := asked or longest):
        text = f"rollout.max_tokens is {config.rollout.max_tokens:,}, of a context of {context:,} tokens"
        setting = "rollout.max_tokens" if context == longest else "serve.max_model_len"
        yield bad("context", f"{text}: no room for a prompt", setting)


def _check_layers(shape: ModelShape, config: DoctorConfig) -> Iterator[CheckResult]:
    """Whether a fresh adapter and the rows of SFT suit the model's layers."""
    if config.policy.adapter is None and shape.missing_modules:
        text = f"no decoder layer has a linear module called {', '.join(sorted(shape.missing_modules))}"
        yield bad("adapter", text, 'policy.target_modules, such as ["all-linear"]')
    if config.sft.packing and shape.needs_own_rows:
        text = "a demonstration's state would reach the next one in its row"
        yield note("SFT's rows", text, "leave sft.packing out")


def plan_table(plan: MemoryPlan, sft: Sequence[Part]) -> Table:
    """Every part of the memory plan, with the settings that decide it; below them the parts of SFT, if any."""
    card = size_text(plan.card_bytes)
    title = f"memory of a card of {card}" if plan.on_gpu else f"memory of a machine of {card}"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("decided by")

    if plan.server:
        share_setting = "serve.gpu_memory_utilization" if plan.on_gpu else ""
        table.add_row("server", size_text(plan.server_share_bytes), share_setting, style="bold")
        _add_parts(table, plan.server)
        table.add_row(
            f"  key-value cache, {plan.kv_tokens:,} tokens",
            size_text(plan.kv_cache_bytes),
            "what is left" if plan.on_gpu else "serve.max_model_len, VLLM_CPU_KVCACHE_SPACE",
        )
    if plan.trainer:
        table.add_row("trainer", size_text(plan.trainer_bytes), "", style="bold")
        _add_parts(table, plan.trainer)
    if plan.margin_bytes:
        table.add_row("kept free by the trainer", size_text(plan.margin_bytes), "")
    left = plan.card_bytes - plan.total_bytes
    table.add_row("left over", size_text(left), "", style="bold" if left >= 0 else "bold red")
    if sft:
        alone = sum(part.num_bytes for part in sft)
        table.add_row("SFT, before the server starts", size_text(alone), "", style="bold")
        _add_parts(table, sft)
    return table


def _add_parts(table: Table, parts: Sequence[Part]) -> None:
    for part in parts:
        table.add_row(f"  {part.name}", size_text(part.num_bytes), part.settings)


def results_table(results: Sequence[CheckResult]) -> Table:
    """One row for each check."""
    table = Table(title="checks", title_justify="left")
    for heading in ("check", "", "found", "change"):
        table.add_column(heading, overflow="fold")
    styles = {CheckStatus.OK: "green", CheckStatus.NOTE: "yellow", CheckStatus.BAD: "red"}
    for result in results:
        status = f"[{styles[result.status]}]{result.status}[/]"
        table.add_row(result.check, status, escape(result.text), escape(result.advice))
    return table
