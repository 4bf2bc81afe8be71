"""Collects rollouts over all arms into a file, at most as many questions at a time as the server accepts.

Each question becomes one row (`trainer.rollouts.rows`), which is written as soon as its group is finished.
A killed collection resumes after its last complete row.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from rich.console import Console

from inference_server.wire.prompt_options import resolve_format
from inference_server.wire.schemas import ServerStatus
from trainer.client.arms_client import ArmsClient
from trainer.client.ask_groups import group_request
from trainer.client.asked_model import AskedModel, uploaded
from trainer.client.model_spec import ModelSpec
from trainer.client.protocol import AdapterServer
from trainer.collect.counts import Collected
from trainer.collect.one_policy import require_same_policy
from trainer.collect.settings import CollectSettings
from trainer.collect.stored_rows import collected_rows, require_no_run_file
from trainer.config.sections import CollectConfig
from trainer.console.progress import OnGroup, group_lines
from trainer.console.stop_signals import Stopped, StopRequest, stop_signals
from trainer.console.terminal import print_line
from trainer.data.context_limit import drop_overlong
from trainer.data.notices import load_with_notices
from trainer.data.sources import Record
from trainer.data.word_problems import Split
from trainer.io.base_record import BaseRecord, require_adapter_of
from trainer.io.jsonl import JsonlAppender
from trainer.rollouts.groups import ScoredGroup
from trainer.rollouts.reward_functions import RewardFunctions
from trainer.rollouts.rows import rollout_row

_POLL_S = 0.1
"""How often a wait for the server looks whether a signal has come."""


def run_collect(config: CollectConfig) -> Collected:
    """Collect and show progress; SIGTERM and Ctrl-C let requests in flight finish.

    Raises:
        Stopped: A signal came before the server answered.
        UsageError: The model is not served; or the file has other settings, another source or rows of another policy, or
            another process appends to it.
        ServerError: The server was unreachable for too long, or refused.
        RewardFunctionError: A function of ``reward.functions`` failed twice for one group.
    """
    say = partial(print_line, Console())

    async def connect_and_collect(stop: StopRequest) -> Collected:
        async with ArmsClient(config.server) as client:
            return await collect(config, client, stop, say)

    with stop_signals() as stop:
        found = asyncio.run(connect_and_collect(stop))
    say(found.line(config.output))
    if stop.requested:
        say("stopped; the same command resumes here")
    return found


async def collect(
    config: CollectConfig, client: AdapterServer, stop: StopRequest, say: Callable[[str], None]
) -> Collected:
    """Request every question that has no row yet and append its row to ``config.output``.

    Args:
        config: Questions, model and file.
        client: The server.
        stop: Once it is requested, no further question is requested.
        say: Gets a line if a collection is resumed, and lines about what is left out of its questions.

    Raises:
        Stopped: A stop was requested before the server answered.
    """
    spec = ModelSpec.parse(config.model, field="model")
    output, records = config.output, _questions(config, say)
    require_no_run_file(output)
    # Before anything that is read of the file or written beside it.
    with JsonlAppender(output) as file:
        settings = CollectSettings(output)
        config = await _with_prompt_format(config, settings, client, stop)
        settings.require(config)
        stored = collected_rows(output, records, say)
        num_stored = len(stored.ids)
        missing = [record for record in records if record.id not in stored.ids]
        found = Collected(num_before=num_stored)
        if not missing and not settings.have_another_model(config):
            settings.keep(config)
            return found
        status = await _status(client, stop)
        if spec.folder is not None:
            base = BaseRecord.served_as(status.base_model, status.base_fingerprint)
            require_adapter_of(spec.folder, base, field="model")
        await require_same_policy(output, stored, spec, status)
        settings.keep(config)
        missing = drop_overlong(missing, status.base_model, config.rollout, status, say)
        if not missing:
            return found
        num_total = num_stored + len(missing)
        with (
            RewardFunctions(config.reward) as functions,
            group_lines("collect", num_done=num_stored, num_total=num_total) as shown,
        ):
            functions.require_columns(missing)
            async with _asked(spec, client, status) as model:
                await _ask_all(
                    missing,
                    partial(_ask, config, functions, model),
                    _keeper(file, found, shown, model, status),
                    stop,
                    num_in_flight=min(config.num_in_flight, status.limits.max_groups_in_flight),
                )
    return found


def _questions(config: CollectConfig, say: Callable[[str], None]) -> list[Record]:
    data, limit = config.data, config.limit
    num_records = min(limit or data.num_questions, data.num_questions)
    key = "limit" if num_records == limit else "data.num_questions"
    return load_with_notices(
        data.source,
        Split.TRAIN,
        num_records=num_records,
        key=key,
        seed=data.seed,
        shape=data.shape,
        say=say,
    )


async def _with_prompt_format(
    config: CollectConfig, settings: CollectSettings, client: AdapterServer, stop: StopRequest
) -> CollectConfig:
    """The configuration with the prompt format that the file has, or else the one that suits the model, for ``auto``."""
    if config.rollout.prompt_format != "auto":
        return config
    prompt_format = settings.prompt_format() or resolve_format(
        "auto", has_chat_template=(await _status(client, stop)).has_chat_template
    )
    rollout = config.rollout.model_copy(update={"prompt_format": prompt_format})
    return config.model_copy(update={"rollout": rollout})


async def _status(client: AdapterServer, stop: StopRequest) -> ServerStatus:
    """The server's status. A signal ends the wait for a server that is not there, which can take minutes."""
    task = asyncio.ensure_future(client.status())
    while not (await asyncio.wait([task], timeout=_POLL_S))[0]:
        if stop.requested:
            task.cancel()
            raise Stopped
    return task.result()


def _keeper(
    file: JsonlAppender, found: Collected, shown: OnGroup, model: AskedModel, status: ServerStatus
) -> Callable[[ScoredGroup], None]:
    served = {"dtype": status.base_dtype}
    if status.base_fingerprint is not None:
        served["base_fingerprint"] = status.base_fingerprint
    # The number alone does not say which weights these were, since each start uploads a folder anew.
    if model.sha256 is not None:
        served["adapter_sha256"] = model.sha256

    def keep(group: ScoredGroup) -> None:
        file.append(rollout_row(group, served=served))
        found.add(group)
        shown(sum(len(arm.token_ids) for arm in group.group.arms))

    return keep


@asynccontextmanager
async def _asked(
    spec: ModelSpec, client: AdapterServer, status: ServerStatus
) -> AsyncIterator[AskedModel]:
    """The model to request from; a folder is uploaded unless the server already has its weights."""
    if spec.folder is None:
        version = spec.served_version(status, field="model")
        yield AskedModel(client, version, status.sha256_of(version))
        return
    # A killed collection could not remove its upload. This one uses it, and does not remove it either.
    async with uploaded(client, spec.folder, status) as model:
        yield model


async def _ask_all(
    records: Sequence[Record],
    ask: Callable[[Record], Awaitable[ScoredGroup]],
    keep: Callable[[ScoredGroup], None],
    stop: StopRequest,
    *,
    num_in_flight: int,
) -> None:
    """Request groups, several at a time, and pass each to ``keep`` as it arrives."""
    waiting = iter(records)

    async def ask_on(waiting: Iterator[Record]) -> None:
        for record in waiting:
            if stop.requested:
                return
            keep(await ask(record))

    tasks = [asyncio.create_task(ask_on(waiting)) for _ in range(num_in_flight)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask(
    config: CollectConfig, functions: RewardFunctions, model: AskedModel, record: Record
) -> ScoredGroup:
    # Always the configured seed, so that a question that is asked again gets the same answers.
    rollout = config.rollout
    (group,) = await model.groups(
        lambda version: group_request(record, rollout, version=version, seed=rollout.seed),
        give_up_after_s=config.server.give_up_after_s,
    )
    is_quick = config.reward.is_regime_w and record.answer_type.name != "math"
    if is_quick:
        return functions.score(record, group, config.reward)
    # Reward functions and computer algebra are slow, and would delay the requests in this thread.
    return await asyncio.to_thread(functions.score, record, group, config.reward)
