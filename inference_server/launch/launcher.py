"""Starts the server: our settings first, then vLLM's OpenAI server with our plugin in it.

Importing vLLM takes many seconds, so everything that can be checked without it is checked first:
``--help`` and a wrong value answer at once. Only vLLM knows all of its flags, so an unknown flag is
refused once it is imported.
"""

import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import NoReturn

from inference_server.engine import EngineDied
from inference_server.http.request_log import configure_logging
from inference_server.launch.engine_imports import METHOD_VARIABLE, EngineImports
from inference_server.launch.environment import expected_engine_environment, set_environment
from inference_server.launch.state_dir import claim_state_dir
from inference_server.settings import Settings, read_settings
from inference_server.wire.hardware.prerequisites import (
    installed_version,
    missing_server_prerequisites,
)
from inference_server.wire.settings.errors import SettingsError
from inference_server.wire.settings.serve import is_loopback
from inference_server.wire.standard_streams import open_standard_streams

_USAGE_EXIT_CODE = 2
_FAILED_EXIT_CODE = 1
# A package that vLLM's routes import sets the root logger's level to this variable's value, or to ERROR if unset.
ROOT_LOG_LEVEL_VARIABLE = "SAGEMAKER_CONTAINER_LOG_LEVEL"
# A Hub id is "name" or "owner/name".
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the server until it is stopped.

    Args:
        argv: Command line without the program's name; None for the process's own.

    Returns:
        Exit code: 0 after Ctrl-C or SIGTERM, 1 if the engine died, 2 if the command line or the settings
        are wrong.
    """
    open_standard_streams()
    arguments = sys.argv[1:] if argv is None else argv
    if "--version" in arguments:
        print(f"regime-w-server {installed_version('regime-w') or 'is not installed'}")  # noqa: T201
        return 0
    try:
        settings, vllm_flags = read_settings(arguments)
        _check_exposure(settings)
        _check_model(settings.model)
        _check_port(settings)
        _check_installation()
        with ExitStack() as stack:
            _on_stop(partial(_leave, stack))
            configure_logging()
            state_dir = stack.enter_context(claim_state_dir(settings.state_dir))
            # Warnings of libraries and of our own modules stay in the log.
            os.environ.setdefault(ROOT_LOG_LEVEL_VARIABLE, "WARNING")
            set_environment()
            imports = None
            if METHOD_VARIABLE not in os.environ:
                imports = EngineImports.start(expected_engine_environment(settings.model))
            # vllm takes many seconds to import.
            from inference_server.launch.vllm_server import serve  # noqa: PLC0415

            # Until the server listens: SystemExit, since vLLM swallows a KeyboardInterrupt while it loads.
            _on_stop(partial(sys.exit, 0))
            serve(settings.model_copy(update={"state_dir": state_dir}), vllm_flags, imports)
    except SettingsError as error:
        for line in error.lines:
            print(f"inference_server: {line}", file=sys.stderr)  # noqa: T201 - a command's own message
        return _USAGE_EXIT_CODE
    except EngineDied as error:
        print(f"inference_server: {error}", file=sys.stderr)  # noqa: T201
        return _FAILED_EXIT_CODE
    return 0


def _on_stop(stop: Callable[[], NoReturn]) -> None:
    """What SIGINT and SIGTERM do from now on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop())


def _leave(stack: ExitStack) -> NoReturn:
    """Ends the process while it imports libraries, with exit code 0.

    An exception might be swallowed or replaced by a library's code, or end the process with an abort if C++ code has
    called it. The fork server ends when this process has.
    """
    stack.close()
    # What multiprocessing would do at a normal exit: the folder holds the fork server's socket.
    shutil.rmtree(get_temp_dir(), ignore_errors=True)
    os._exit(0)


def _check_exposure(settings: Settings) -> None:
    """Refuses to listen on addresses that other machines can reach unless there is an API key."""
    if settings.api_key is None and not is_loopback(settings.host):
        raise SettingsError(
            f"--host {settings.host} is open to other machines: set REGIME_W_API_KEY to a secret, or "
            "leave --host out to listen on 127.0.0.1 only"
        )


def _check_port(settings: Settings) -> None:
    """Detects a port in use before the engine starts, which takes a minute."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}"
        ) from error


def _check_installation() -> None:
    """Detects a missing prerequisite; half a minute later, vLLM's error would not name it."""
    if missing := [str(each) for each in missing_server_prerequisites()]:
        raise SettingsError(*missing)


def _check_model(model: str) -> None:
    """Detects a mistyped folder before vLLM looks for it on the Hub."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise SettingsError(f"--model {model}: the folder has no config.json")
    elif folder.exists() or not _HUB_ID.fullmatch(model):
        raise SettingsError(f"--model {model}: no such folder")
    elif os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") and not _is_cached(model):
        raise SettingsError(
            f"--model {model}: neither a folder nor in the Hub's cache, and HF_HUB_OFFLINE is set; download it "
            "first, or name a folder"
        )


def _is_cached(model: str) -> bool:
    """Whether the Hub's cache has any file of a model, in any revision."""
    # Not at the top: --help needs neither.
    from huggingface_hub.constants import HF_HUB_CACHE  # noqa: PLC0415
    from huggingface_hub.file_download import repo_folder_name  # noqa: PLC0415

    return (Path(HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model")).is_dir()
