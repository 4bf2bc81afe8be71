"""The only way to ask for groups of arms: one version is asked, again and again until the groups are whole.

A request goes in; groups without aborted completions come out. A completion that the server aborted or
lost is neither right nor wrong: it is asked for again with the same seed, and never scored.
"""

from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import stamina

from inference_server.wire.schemas import (
    ArmGroup,
    ArmsRequest,
    FinishReason,
    Priority,
    Question,
)
from trainer.client.protocol import GroupServer
from trainer.client.retries import Patience
from trainer.config.sections import RolloutConfig
from trainer.data.sources import Record
from trainer.errors import ServerError, ServerUnreachableError

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
"""The shortest and the longest wait before a lost request is sent again: many are lost at once, and a server that loses
them all needs rest."""

_T = TypeVar("_T")


class LostError(Exception):
    """The server lost the request; it can be retried: see `ask_again`."""


def policy_of(version: int | None) -> Literal["base"] | int:
    """What a request names as its policy in order to ask a version; None asks the base model."""
    return "base" if version is None else version


def group_request(
    record: Record, rollout: RolloutConfig, *, version: int | None, seed: int | None
) -> ArmsRequest:
    """The request for one question's group.

    Args:
        record: The question; its answer is not sent.
        rollout: Arms, samples and length.
        version: The version to ask; None asks the base model.
        seed: The server mixes the question, the arm and the sample into it.
    """
    return ArmsRequest(
        questions=[Question(id=record.id, question=record.question)],
        arms=list(rollout.arms),
        samples_per_arm=rollout.samples_per_arm,
        max_tokens=rollout.max_tokens,
        prompt_format=rollout.prompt_format,
        stop=rollout.stop,
        seed=seed,
        policy=policy_of(version),
        # A lower priority, so that somebody who asks the policy a question does not wait for a whole batch.
        priority=Priority.ROLLOUT,
    )


async def ask_groups(server: GroupServer, request: ArmsRequest) -> tuple[list[ArmGroup], str]:
    """The groups of a request, and the boot id of the server that generated them.

    Raises:
        LostError: The server aborted a group.
        ServerError: A group comes from another version than the one asked for, or no groups came.
    """
    asked = None if request.policy == "base" else request.policy
    response = await server.generate(request)
    for group in response.groups:
        if group.policy_version != asked:
            raise ServerError(
                f"asked version {request.policy} for a group and got one of {group.policy_version}"
            )
        if any(arm.finish_reason is FinishReason.ABORT for arm in group.arms):
            raise LostError(f"the server aborted group {group.id!r}")
    return response.groups, response.boot_id


async def ask_again(ask: Callable[[], Awaitable[_T]], *, give_up_after_s: float) -> tuple[_T, int]:
    """Ask until there is a result.

    Args:
        ask: Raises `LostError` to be called again.
        give_up_after_s: How long to try again, from the first loss on.

    Returns:
        The result, and how often it was lost before.

    Raises:
        ServerUnreachableError: The result was lost again and again for that long.
    """
    patience, num_lost = Patience(give_up_after_s), 0

    def tries_again(error: Exception) -> bool:
        return isinstance(error, LostError) and patience.lasts()

    try:
        async for attempt in stamina.retry_context(
            on=tries_again,
            timeout=None,
            attempts=None,
            wait_initial=_FIRST_WAIT_S,
            wait_max=_LONGEST_WAIT_S,
        ):
            with attempt:
                try:
                    return await ask(), num_lost
                except LostError:
                    num_lost += 1
                    raise
    except LostError as error:
        raise ServerUnreachableError(
            f"{error}, {num_lost} times within {give_up_after_s:g} s"
        ) from None
    raise AssertionError("an attempt returns or raises")
