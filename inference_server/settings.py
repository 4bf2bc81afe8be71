"""Settings of the server that are ours; everything else is a flag of ``vllm serve``.

Each comes from a flag, from the environment (``REGIME_W_`` and the name in capitals), from the TOML
file of ``--config``, or is the default; the first that names it wins. Loads neither torch nor vllm.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

_ENVIRONMENT_PREFIX = "REGIME_W_"


class SettingsError(Exception):
    """A setting that cannot be used; the message is one line that names it."""


class Settings(BaseModel):
    """What the server does beyond vLLM."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    model: str = Field(min_length=1)
    """Base model: a folder in Hugging Face's format, or a model id on the Hub."""
    host: str = "127.0.0.1"
    """Address to listen on. Any other than loopback needs an API key."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    api_key: SecretStr | None = None
    """Key that every route but /health asks for. From REGIME_W_API_KEY or the file: flags show in ps."""
    state_dir: Path | None = None
    """Folder that keeps the adapters over restarts. Default: a temporary one, gone when the server is."""
    adapter_root: Path | None = None
    """Folder below which adapters may be loaded by path. Default: none may."""
    max_loaded_versions: int = Field(default=4, ge=2, le=64)
    """Most adapter versions held. After an upload the oldest that nothing uses leave, until one place is free."""
    max_adapter_bytes: int = Field(default=2**30, ge=1)
    """Largest upload of one adapter, in bytes."""
    max_questions: int = Field(default=256, ge=1)
    """Most questions in one request to /v1/arms/generate."""
    max_samples_per_arm: int = Field(default=16, ge=1)
    """Most samples of each arm in one request."""
    max_groups_in_flight: int = Field(default=512, ge=1)
    """Most groups (questions) in flight of either priority; beyond, requests get 429."""
    max_body_bytes: int = Field(default=2**25, ge=1)
    """Largest body of any request but an upload, in bytes."""
    max_request_s: float = Field(default=900.0, gt=0)
    """Longest time for one request to /v1/arms/generate, in seconds; then it is aborted with 408."""
    drain_timeout_s: float = Field(default=30.0, ge=0)
    """After SIGTERM, how long requests in flight may still take, in seconds."""

    @model_validator(mode="after")
    def _one_request_fits(self) -> Self:
        if self.max_questions > self.max_groups_in_flight:
            raise ValueError(
                f"max_questions ({self.max_questions}) must not exceed "
                f"max_groups_in_flight ({self.max_groups_in_flight})"
            )
        return self


def load_settings(
    *,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    config_file: Path | None = None,
) -> Settings:
    """Puts the settings together.

    Args:
        flags: Settings given on the command line, by field name.
        environment: The process's environment; an empty value counts as not set, because Compose
            hands on variables that the user left out as empty ones.
        config_file: A TOML file with fields of `Settings` at its top level.

    Raises:
        SettingsError: A value is missing, unknown or out of range, or the file cannot be read.
    """
    sources: dict[str, tuple[str, object]] = {}
    if config_file is not None:
        for key, value in _read_toml(config_file).items():
            sources[key] = (f"{config_file}: {key}", value)
    for name in Settings.model_fields:
        variable = _ENVIRONMENT_PREFIX + name.upper()
        if environment.get(variable):
            sources[name] = (variable, environment[variable])
    for name, value in flags.items():
        sources[name] = (f"--{name.replace('_', '-')}", value)
    try:
        return Settings.model_validate({name: value for name, (_, value) in sources.items()})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        # A rule over several fields has no location; its message names them.
        origin, _ = sources.get(name, (f"--{name}", None)) if name else ("settings", None)
        reason = "unknown setting" if first["type"] == "extra_forbidden" else first["msg"]
        raise SettingsError(f"{origin}: {reason}") from error


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"--config {path}: {error}") from error
