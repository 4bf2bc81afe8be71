"""Checks whether the running servers serve this run's base model and allow what the run asks for."""

import asyncio
from collections.abc import Iterator

from inference_server.wire.schemas import ServerStatus
from trainer.client.arms_client import ArmsClient
from trainer.client.compatibility import check_limits, check_server, compare_base
from trainer.config.sections import DoctorConfig
from trainer.doctor.results import CheckResult, bad, note, ok
from trainer.errors import ServerError, ServerUnreachableError, UsageError
from trainer.model.dtype import difference_line
from trainer.servers.agreement import require_agreement


async def _statuses(config: DoctorConfig) -> dict[str, ServerStatus | ServerError]:
    """The status of each server, or why there is none, by URL."""
    settings = config.server.for_terminal()
    urls = settings.urls or (settings.url,)

    async def status(url: str) -> ServerStatus | ServerError:
        try:
            one = settings.model_copy(update={"url": url, "urls": ()})
            async with ArmsClient(one) as client:
                return await client.status()
        except ServerError as error:
            return error

    return dict(zip(urls, await asyncio.gather(*map(status, urls)), strict=True))


def ask_server(config: DoctorConfig) -> Iterator[CheckResult]:
    """Check the server at ``server.url``, or all of ``server.urls``, or report that one does not answer."""
    found = asyncio.run(_statuses(config))
    answers = {url: each for url, each in found.items() if isinstance(each, ServerStatus)}
    for url, each in found.items():
        if isinstance(each, ServerStatus):
            yield from check_served_model(each, config, url)
        elif isinstance(each, ServerUnreachableError) and answers:
            yield note("server", f"{each}; a run goes on without it", "server.urls")
        else:
            yield bad("server", str(each), "server.url, REGIME_W_API_KEY")
    # As in `train`, one of them is compared with each of the others.
    first = next(iter(answers), "")
    for url in [*answers][1:]:
        try:
            require_agreement(url, answers[url], first, answers[first])
        except UsageError as error:
            yield bad("server", str(error), "server.urls")


def check_served_model(
    status: ServerStatus, config: DoctorConfig, url: str
) -> Iterator[CheckResult]:
    """Whether a server serves the same base model, and whether its limits suit the run.

    Args:
        status: The server's status.
        config: The run's configuration.
        url: The server's address.
    """
    try:
        check_server(status, config)
    except UsageError as error:
        yield bad("server", f"{url}: {error}")
    if line := difference_line(config.policy, status.base_dtype):
        yield note("server", line, "policy.dtype = auto")
    found = compare_base(status, config.policy)
    served = f"{url} serves {found.text}"
    if found.is_same is None:
        yield note("server", served)
    elif not found.is_same:
        yield bad("server", served, found.advice)
    else:
        version = "base" if status.active_version is None else status.active_version
        yield ok("server", f"{served}, in {status.base_dtype}; active version {version}")


def check_own_server(config: DoctorConfig) -> Iterator[CheckResult]:
    """A note if the limits in ``serve``, with which a server that is not asked will start, do not suit the run."""
    try:
        check_limits(config.serve, config)
    except UsageError as error:
        # A note, since flags of the server, which are not known here, may raise them.
        limits = "serve.max_lora_rank, serve.max_samples_per_arm, serve.max_loaded_versions, or the server's flags"
        yield note("server", str(error), limits)
