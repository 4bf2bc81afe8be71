"""Whether a run can start on this machine: what was found, and the setting to change where it cannot."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trainer.doctor.checks import (
    DoctorConfig,
    Finding,
    Verdict,
    ask_server,
    check_device,
    check_disk,
    check_memory,
    check_model_files,
    check_versions,
    find_device,
    shown,
)
from trainer.doctor.memory_plan import MemoryPlan, Part, plan_memory, read_shape

_LOG_WIDTH = 140


def run_doctor(config: DoctorConfig) -> bool:
    """Check everything, print it, and return whether a run can start."""
    console = Console(width=None if sys.stdout.isatty() else _LOG_WIDTH)
    findings = [*check_versions(), *check_device(config)]
    device = find_device(config)
    findings += check_model_files(config.policy.base_model)
    shape = None
    try:
        shape = read_shape(config.policy.base_model, config.policy.target_modules)
    except (OSError, ValueError) as error:
        findings.append(
            Finding(
                check="memory",
                verdict=Verdict.BAD,
                text=f"no plan without the model's configuration: {first_line(error)}",
                advice="policy.base_model",
            )
        )
    if shape is not None:
        plan = plan_memory(
            shape, config, config.serve, card_bytes=device.memory_bytes, on_gpu=device.on_gpu
        )
        console.print(plan_table(plan))
        findings += check_memory(plan, shape, config, device)
        findings += check_disk(shape, config)
    if config.ask_server:
        findings += ask_server(config)
    console.print(findings_table(findings))
    num_bad = sum(finding.verdict is Verdict.BAD for finding in findings)
    console.print(
        "verdict: a run can start"
        if not num_bad
        else f"verdict: a run would fail: {num_bad} of {len(findings)} checks",
        style="green" if not num_bad else "red",
        highlight=False,
    )
    return not num_bad


def first_line(error: Exception) -> str:
    """What an error of a library says, in one line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def plan_table(plan: MemoryPlan) -> Table:
    """Every part of the memory plan, and what decides it."""
    card = shown(plan.card_bytes)
    title = f"memory of a card of {card}" if plan.on_gpu else f"memory of a machine of {card}"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("decided by")

    def add(part: Part) -> None:
        table.add_row(f"  {part.name}", shown(part.num_bytes), part.settings)

    decides = "serve.gpu_memory_utilization" if plan.on_gpu else ""
    table.add_row("server", shown(plan.server_share_bytes), decides, style="bold")
    for part in plan.server:
        add(part)
    add(
        Part(
            name=f"key-value cache, {plan.kv_tokens:,} tokens",
            num_bytes=plan.kv_cache_bytes,
            settings="what is left" if plan.on_gpu else "VLLM_CPU_KVCACHE_SPACE",
        )
    )
    table.add_row("trainer", shown(plan.trainer_bytes), "", style="bold")
    for part in plan.trainer:
        add(part)
    left = plan.card_bytes - plan.total_bytes
    table.add_row("left over", shown(left), "", style="bold" if left >= 0 else "bold red")
    return table


def findings_table(findings: Sequence[Finding]) -> Table:
    """One row a check."""
    table = Table(title="checks", title_justify="left")
    for heading in ("check", "", "found", "change"):
        table.add_column(heading, overflow="fold")
    styles = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.BAD: "red"}
    for finding in findings:
        table.add_row(
            finding.check,
            f"[{styles[finding.verdict]}]{finding.verdict}[/]",
            escape(finding.text),
            escape(finding.advice),
        )
    return table
