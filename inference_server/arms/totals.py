"""What an answer says of all its groups together."""

from collections.abc import Sequence

from inference_server.wire.schemas import Usage


def newest(versions: Sequence[int | None]) -> int | None:
    """The newest of some groups' versions; None if the base generated all groups."""
    return max((version for version in versions if version is not None), default=None)


def total(usages: Sequence[Usage]) -> Usage:
    """The sum of some groups' usage."""
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
    )
