"""vLLM's own server on a CPU, without ours around it, and its engine's settings."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from inference_server.launch.server_process import ServerProcess, free_port
from inference_server.vllm.cpu.settings import CPU_FLAGS


def cpu_engine_arguments() -> dict[str, bool | int | str]:
    """`CPU_FLAGS` as arguments of ``vllm.LLM``."""
    arguments: dict[str, bool | int | str] = {}
    for flag, value in CPU_FLAGS.items():
        name = flag.removeprefix("--")
        if value is None:
            arguments[name.removeprefix("no-").replace("-", "_")] = not name.startswith("no-")
        else:
            arguments[name.replace("-", "_")] = int(value) if value.isdigit() else value
    return arguments


@contextmanager
def vllm_server(
    model: Path, log_path: Path, *flags: str, environment: Mapping[str, str]
) -> Iterator[str]:
    """The URL of a server that answers within the block, and into which adapters can be loaded.

    Args:
        model: Base model.
        log_path: File that receives the server's output.
        flags: Flags beside those with which vLLM runs on a CPU.
        environment: All of its variables but the one that lets it load adapters.
    """
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    command += ["--model", str(model), "--port", str(port), "--enable-lora"]
    command += [word for pair in CPU_FLAGS.items() for word in pair if word is not None]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*command, *flags],
            stdout=log,
            stderr=log,
            env={**environment, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
            start_new_session=True,
        )
    server = ServerProcess(url=f"http://127.0.0.1:{port}", process=process, log_path=log_path)
    try:
        server.wait_until_healthy()
        yield server.url
    finally:
        server.stop()
