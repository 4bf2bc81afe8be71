"""Runs vLLM's OpenAI server with the settings that rollouts need."""

import argparse
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import transformers
import uvloop
from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from vllm.entrypoints.launchers.api_server.entry import run_server_worker
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import setup_server
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.logger import configure_logging_from_args
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.utils.system_utils import decorate_logs

from inference_server.adapters.versions import POLICY_ALIAS
from inference_server.engine import EngineDied
from inference_server.http.bounded_protocol import BoundedProtocol
from inference_server.launch.engine_imports import EngineImports
from inference_server.launch.environment import set_defaults
from inference_server.launch.plugin import Launch
from inference_server.launch.shutdown import Shutdown
from inference_server.launch.starting import Starting
from inference_server.launch.template_variables import set_template_variables
from inference_server.settings import Settings
from inference_server.vllm.cpu.launch import adjust_for_cpu, num_workers
from inference_server.vllm.cpu.settings import CPU_FLAGS, cpu_environment
from inference_server.vllm.gpu_launch import adjust_for_gpu
from inference_server.vllm.phases import PHASE_FILE_VARIABLE
from inference_server.wire.base_files import base_folder, why_not_on_hub
from inference_server.wire.flags.errors import flag_suggestion
from inference_server.wire.flags.reading import given_flags
from inference_server.wire.hardware import gpu
from inference_server.wire.hardware.model_config import why_not_text_only
from inference_server.wire.settings.errors import SettingsError, first_line, known_keys

_BASE_ALIAS = "base"
_NO_GPU = (
    "vLLM's build for a GPU finds none: nvidia-smi must list one here (in a container: the NVIDIA container toolkit "
    "and docker-compose.override.yml); on a machine without one, EXTRA=cpu make install in a new .venv"
)


def serve(
    settings: Settings, vllm_flags: Sequence[str], engine_imports: EngineImports | None
) -> None:
    """Runs the server until SIGINT or SIGTERM.

    Args:
        settings: The server's settings; ``state_dir`` must be set.
        vllm_flags: Flags of ``vllm serve`` given by the user; they override ours.
        engine_imports: The process that imports the engine's modules meanwhile; None if there is none.

    Raises:
        SettingsError: vLLM finds no device or rejects its flags, or the model cannot be found or served.
        EngineDied: The engine died, which ends the server.
    """
    if current_platform.is_unspecified():
        raise SettingsError(_NO_GPU)
    on_cpu = current_platform.is_cpu()
    cli_env_setup()
    args = _parse(settings, vllm_flags, on_cpu)
    configure_logging_from_args(args)
    try:
        validate_parsed_serve_args(args)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"vllm: {first_line(error)}") from error
    if base_folder(args.model, args.revision) is None and (reason := why_not_on_hub(args.model)):
        raise SettingsError(
            f"--model {args.model}: neither a folder nor in the Hub's cache, and {reason}"
        )
    config = _model_config(args)
    if (reason := why_not_text_only(config, args.model)) is not None:
        raise SettingsError(f"--model {args.model}: {reason}")
    set_template_variables(args)
    if on_cpu:
        adjust_for_cpu(args, config, vllm_flags)
        set_defaults(cpu_environment(config.get("hidden_size"), num_workers=num_workers(args)))
    else:
        set_defaults(gpu.ENVIRONMENT)
        adjust_for_gpu(args, settings, vllm_flags)
    if engine_imports is not None:
        if args.numa_bind:  # vLLM starts the process by another program then
            engine_imports.end("--numa-bind")
        else:
            engine_imports.use()
    try:
        uvloop.run(_serve(args, settings))
    except ValidationError as error:
        # Engine arguments that are valid alone but contradict each other or the model.
        raise SettingsError(f"vllm: {error.errors()[0]['msg']}") from error


def _model_config(args: argparse.Namespace) -> dict[str, Any]:
    """The content of the model's config.json, completed by Transformers where it knows the architecture.

    Raises:
        SettingsError: It cannot be found or read.
    """
    try:
        config: dict[str, Any]
        config, _ = transformers.PretrainedConfig.get_config_dict(
            args.model, revision=args.revision
        )
        # Fails for an architecture that only vLLM knows, and for a file that names none.
        with suppress(ValueError, KeyError, TypeError):
            config |= transformers.AutoConfig.for_model(**config).to_dict()
    except (OSError, TypeError, ValueError, StrictDataclassError) as error:
        # The Hub's own message does not always name the model.
        raise SettingsError(f"--model {args.model}: {first_line(error)}") from error
    return config


async def _serve(args: argparse.Namespace, settings: Settings) -> None:
    """Does what vLLM's ``run_server`` does, without its signal handler.

    That handler turns a SIGTERM during loading into a KeyboardInterrupt, which ``zmq_socket_ctx``
    swallows, so that loading would continue. The launcher's handlers raise SystemExit until the server
    listens; then those of `Shutdown` take over.
    """
    decorate_logs("APIServer", skip_if_decorated=True)
    try:
        listen_address, listening_socket = setup_server(args, reuse_port=False)
    except OSError as error:
        raise SettingsError(f"--port {args.port}: {error.strerror}; give another") from error
    shutdown = Shutdown(settings.drain_timeout_s)
    with (
        tempfile.TemporaryDirectory(prefix="regime-w-start-") as folder,
        Starting(
            None if args.ssl_certfile else listening_socket, Path(folder) / "phase"
        ) as starting,
    ):
        os.environ[PHASE_FILE_VARIABLE] = str(Path(folder) / "phase")
        Launch(settings=settings, shutdown=shutdown, starting=starting).put_into(args)
        await run_server_worker(listen_address, listening_socket, args, http=BoundedProtocol)
    if not shutdown.requested:
        raise EngineDied("the engine ended by itself; the log above says why")


def _our_flags(settings: Settings, on_cpu: bool) -> dict[str, str | None]:
    """Our flags of ``vllm serve`` with their values; None for a flag without one."""
    # A slot holds one adapter of a batch; with fewer slots than versions, requests would wait for one.
    # On the CPU a slot costs only memory.
    num_slots = str(settings.max_loaded_versions)
    flags = {
        "--model": settings.model,
        "--host": settings.host,
        "--port": str(settings.port),
        "--enable-lora": None,
        "--max-lora-rank": str(settings.max_lora_rank),
        "--max-loras": num_slots,
        "--max-cpu-loras": num_slots,
        # The trainer needs the logprobs of the distribution that was sampled from.
        "--logprobs-mode": "processed_logprobs",
        # Otherwise the model's generation_config.json would change the sampling without the client asking for it.
        "--generation-config": "vllm",
        # Our own request log has a line for each request, with its id.
        "--disable-uvicorn-access-log": None,
        "--scheduling-policy": "priority",
    }
    if settings.gpu_memory_utilization is not None:
        flags["--gpu-memory-utilization"] = str(settings.gpu_memory_utilization)
    if settings.max_model_len is not None:
        flags["--max-model-len"] = str(settings.max_model_len)
    if on_cpu:
        flags |= CPU_FLAGS
        if settings.max_num_seqs is not None:
            flags["--max-num-seqs"] = str(settings.max_num_seqs)
    else:
        flags |= gpu.flags(settings)
    return flags


def _parse(settings: Settings, vllm_flags: Sequence[str], on_cpu: bool) -> argparse.Namespace:
    """Parses our flags and the user's with vLLM's own parser."""

    class OneLineParser(FlexibleArgumentParser):  # type: ignore[misc]  # vllm is untyped here
        """vLLM's parser, without its usage text, which is longer than a screen."""

        def error(self, message: str) -> NoReturn:
            flag = next((word for word in message.split() if word.startswith("--")), "--")
            meant = flag_suggestion(flag, set(known_keys(Settings)), kebab_case=True)
            raise SettingsError(f"{message}{meant} (see vllm serve --help=all)")

    # Leave out our flags that the user gave: vLLM would warn about flags that are given twice.
    given = given_flags(vllm_flags)
    ours = [
        part
        for name, value in _our_flags(settings, on_cpu).items()
        if name not in given
        for part in (name, value)
        if part is not None
    ]
    args = argparse.Namespace()
    make_arg_parser(OneLineParser(allow_abbrev=False)).parse_args(
        [*ours, *vllm_flags], namespace=args
    )
    if args.model_tag is not None:
        raise SettingsError(f"unexpected argument {args.model_tag!r}: name the model with --model")
    if args.api_key is not None:
        raise SettingsError("--api-key: set REGIME_W_API_KEY instead, which guards every route")
    if args.max_cpu_loras < settings.max_loaded_versions:
        # Beyond that number the engine drops the least recently used version, in use or not.
        raise SettingsError(
            f"--max-cpu-loras {args.max_cpu_loras} is below --max-loaded-versions "
            f"{settings.max_loaded_versions}: leave it out"
        )
    # The trainer's logits are float32. Rounded to a half-precision model's dtype, the server's would differ
    # from them by more than a small update of the policy changes them. This has no effect on a float32 model.
    args.hf_overrides = {"head_dtype": "float32", **(args.hf_overrides or {})}
    names = args.served_model_name or [args.model]
    # The alias stands for the base model until a version is active.
    args.served_model_name = list(dict.fromkeys([*names, _BASE_ALIAS, POLICY_ALIAS]))
    return args
