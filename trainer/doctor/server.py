"""Whether the running server serves this run's base model and allows what the run asks for."""

import asyncio
from collections.abc import Iterator

from inference_server.wire.base_fingerprint import base_folder, fingerprint
from inference_server.wire.schemas import ServerStatus
from trainer.client.arms_client import ArmsClient
from trainer.client.compatibility import check_server
from trainer.config.sections import DoctorConfig
from trainer.doctor.results import CheckResult, bad, note, ok
from trainer.errors import ServerError, UsageError
from trainer.model.dtype import difference_line


async def _status(config: DoctorConfig) -> ServerStatus:
    async with ArmsClient(config.server.while_somebody_waits()) as client:
        return await client.status()


def ask_server(config: DoctorConfig) -> Iterator[CheckResult]:
    """Check the server at ``server.url``, or report that it does not answer."""
    try:
        status = asyncio.run(_status(config))
    except ServerError as error:
        yield bad("server", str(error), "server.url, REGIME_W_API_KEY")
        return
    yield from check_served_model(status, config)


def check_served_model(status: ServerStatus, config: DoctorConfig) -> Iterator[CheckResult]:
    """Whether a server serves the same base model, and its limits suit the run."""
    try:
        check_server(status, config)
    except UsageError as error:
        yield bad("server", str(error))
    if line := difference_line(config.policy, status.base_dtype):
        yield note("server", line, "policy.dtype = auto")
    base_model = config.policy.base_model
    folder = base_folder(base_model)
    ours = None if folder is None else fingerprint(folder)
    served = f"{config.server.url} serves {status.base_model}"
    if ours is None or status.base_fingerprint is None:
        yield note(
            "server",
            f"{served}; whether it is the same revision of {base_model} was not checked: the files are "
            "not on disk",
        )
    elif config.policy.quantization is not None and ours == status.base_fingerprint:
        yield bad(
            "server",
            f"{served}, but the trainer's 4-bit weights differ from these",
            "serve what `python -m trainer dequantize` writes",
        )
    elif config.policy.quantization is not None:
        yield note(
            "server",
            f"{served}, and the trainer uses {base_model} in 4 bits; the first push checks whether the "
            "weights are the same",
        )
    elif ours != status.base_fingerprint:
        yield bad(
            "server",
            f"{served} with fingerprint {status.base_fingerprint}, but {base_model} here has {ours}: "
            "another model, or another revision of it",
            "policy.base_model, or the server's --model and --revision",
        )
    else:
        version = "base" if status.active_version is None else status.active_version
        yield ok(
            "server",
            f"{served}, the same files, in {status.base_dtype}; active version {version}",
        )
