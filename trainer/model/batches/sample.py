"""One completion as PPO needs it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One completion: token ids as they were sampled, never re-tokenised text."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]
    """One for each completion token, from the server's sampling distribution."""
    temperature: float
    top_p: float
    reward: float
    truncated: bool
    """Whether the token limit ended it, so that its last state is not terminal."""
    version: int | None
    """The policy version that generated it."""

    @property
    def state_ids(self) -> tuple[int, ...]:
        """The tokens whose states are computed; the last token only if the state after it is not terminal."""
        ids = self.prompt_ids + self.completion_ids
        return ids if self.truncated else ids[:-1]
