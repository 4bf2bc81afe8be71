"""The server's own settings, as the section ``serve`` of a configuration file holds them.

The trainer reads them to plan the memory of both processes. Loads neither torch nor vllm.
"""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from inference_server.wire.schemas import MAX_QUESTIONS
from inference_server.wire.settings.model import SettingsModel

_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""vLLM 0.32's ``MaxLoRARanks``."""
VLLM_GPU_MEMORY_UTILIZATION = 0.92
"""Fraction of the GPU that vLLM 0.32 takes if ``gpu_memory_utilization`` is null."""


_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([0-9a-z.-]+))(?::([0-9]{1,5}))?")
_MAX_PORT = 2**16 - 1
_SENDABLE_KEY = re.compile(r"[!-~]([ -~]*[!-~])?")


def _sendable(key: SecretStr) -> SecretStr:
    if not _SENDABLE_KEY.fullmatch(key.get_secret_value()):
        raise ValueError(
            "must be printable ASCII, not empty and without white space around it, since a header carries "
            "nothing else; the same holds for REGIME_W_API_KEY"
        )
    return key


ApiKey = Annotated[SecretStr, AfterValidator(_sendable)]
"""A key that an HTTP header carries unchanged."""


class ServeConfig(SettingsModel):
    """What the server does beyond vLLM, and the flags of vLLM that its memory depends on."""

    model: str | None = Field(default=None, min_length=1)
    """Base model to serve: a folder in Hugging Face's format, or a model id on the Hub. By default
    policy.base_model of the file."""
    host: str = "127.0.0.1"
    """Address to listen on. Any other than loopback needs an API key."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    api_key: ApiKey | None = None
    """Key that every route but /health asks for. Give it in REGIME_W_API_KEY or in the file, not as a flag, since `ps`
    shows flags."""
    state_dir: Path | None = None
    """Folder that keeps the adapters over restarts. By default a temporary one, which is removed at the end."""
    adapter_root: Path | None = None
    """Folder below which adapters may be loaded by path. By default no adapter may be loaded by path."""
    max_loaded_versions: int = Field(default=4, ge=2, le=64)
    """Most adapter versions that the server holds, each in a slot. After an upload the oldest unused versions are
    removed until one slot is free."""
    max_adapter_bytes: int = Field(default=2**30, ge=1)
    """Largest upload of one adapter, in bytes."""
    max_questions: int = Field(default=256, ge=1)
    """Most questions in one request to /v1/arms/generate."""
    max_samples_per_arm: int = Field(default=16, ge=1)
    """Most samples of each arm in one request."""
    max_completions: int = Field(default=2048, ge=1)
    """Most completions of one request: questions × arms × samples, or prompts × n."""
    max_groups_in_flight: int = Field(default=512, ge=1)
    """Most groups (questions) in flight, for each of the two priorities; further requests get 429."""
    max_body_bytes: int = Field(default=2**25, ge=1)
    """Largest body of any request except uploads, in bytes."""
    max_request_s: float = Field(default=3600.0, gt=0)
    """Longest time for one request to /v1/arms/generate, in seconds, including its wait for other requests; then it
    is aborted with 408."""
    drain_timeout_s: float = Field(default=30.0, ge=0)
    """After SIGTERM, how long requests in flight may still take, in seconds."""

    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Fraction of the GPU's memory that the server takes; the trainer has the rest. Null is vLLM's default,
    which leaves no room for a trainer."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Longest prompt and completion together, in tokens. Null is the model's own limit."""
    max_lora_rank: int = Field(default=16, ge=1)
    """Largest rank of an adapter: 1, 8, 16, 32, 64, 128, 256, 320 or 512. Adapters of lower ranks are served too."""
    max_num_seqs: int | None = Field(default=None, ge=1)
    """Most sequences (completions) that run at a time. Best is the number of a step's completions, if the key-value
    cache holds them. Null is 512 on a GPU and 256 on a CPU."""

    @field_validator("max_lora_rank")
    @classmethod
    def _check_lora_rank(cls, rank: int) -> int:
        if rank not in _LORA_RANKS:
            above = next((known for known in _LORA_RANKS if known > rank), _LORA_RANKS[-1])
            raise ValueError(f"must be one of {', '.join(map(str, _LORA_RANKS))}; give {above}")
        return rank

    @model_validator(mode="after")
    def _one_request_fits(self) -> Self:
        if self.max_questions > self.max_groups_in_flight:
            raise ValueError(
                f"max_questions ({self.max_questions}) must not exceed "
                f"max_groups_in_flight ({self.max_groups_in_flight})"
            )
        if self.max_questions > MAX_QUESTIONS:
            raise ValueError(
                f"max_questions ({self.max_questions}) must not exceed {MAX_QUESTIONS}"
            )
        return self


VLLM_KEYS = frozenset({"gpu_memory_utilization", "max_model_len", "max_lora_rank", "max_num_seqs"})
"""Keys of `ServeConfig` that are flags of vLLM by the same name; on the command line vLLM reads them."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host's address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_loopback(authority: str) -> bool:
    """Whether a ``Host`` header is a loopback name or address, IPv6 in brackets, with or without a port."""
    found = _AUTHORITY.fullmatch(authority.lower())
    if found is None or int(found[3] or 0) > _MAX_PORT:
        return False
    is_ipv6 = found[1] is not None
    name = found[1] if is_ipv6 else found[2]
    return is_loopback(name) and is_ipv6 == (":" in name)
