"""Checks whether the running server serves this run's base model and allows what the run asks for."""

import asyncio
from collections.abc import Iterator

from inference_server.wire.schemas import ServerStatus
from trainer.client.arms_client import ArmsClient
from trainer.client.compatibility import check_server, compare_base
from trainer.config.sections import DoctorConfig
from trainer.doctor.results import CheckResult, bad, note, ok
from trainer.errors import ServerError, UsageError
from trainer.model.dtype import difference_line


async def _status(config: DoctorConfig) -> ServerStatus:
    async with ArmsClient(config.server.for_terminal()) as client:
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
    """Whether a server serves the same base model, and whether its limits suit the run."""
    try:
        check_server(status, config)
    except UsageError as error:
        yield bad("server", str(error))
    if line := difference_line(config.policy, status.base_dtype):
        yield note("server", line, "policy.dtype = auto")
    found = compare_base(status, config.policy)
    served = f"{config.server.url} serves {found.text}"
    if found.is_same is None:
        yield note("server", served)
    elif not found.is_same:
        yield bad("server", served, found.advice)
    else:
        version = "base" if status.active_version is None else status.active_version
        yield ok("server", f"{served}, in {status.base_dtype}; active version {version}")
