"""What is generated for each step."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from inference_server.wire.prompt_options import PromptFormatChoice, StopStrings
from regime_w import ArmSpec, build_all_arms
from trainer.config.base import Section, Seed


def _given_or_recipe(arms: object) -> object:
    # A flag's null is read as a list of one.
    return build_all_arms() if not arms or arms == [None] else arms


def _names_are_unique(arms: tuple[ArmSpec, ...]) -> tuple[ArmSpec, ...]:
    names = [arm.name for arm in arms]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"two arms have the name {repeated[0]!r}; give each a name of its own")
    return arms


def _is_recipe(arms: object) -> bool:
    return arms == build_all_arms()


Arms = Annotated[
    tuple[ArmSpec, ...],
    BeforeValidator(_given_or_recipe),
    AfterValidator(_names_are_unique),
    # Not written to a run's config.toml, where a missing key has always meant the eight.
    Field(exclude_if=_is_recipe),
]
"""Arms to ask: never empty, since null and an empty list are read as the eight of Regime W."""

RENAMED_KEYS: Mapping[str, str] = {"rollout.refill_zero_variance": "rollout.dynamic_sampling"}
"""Earlier names of keys, which are still read, and their names now."""


class RolloutConfig(Section):
    """What is generated for each step."""

    meant_before: ClassVar[Mapping[str, object]] = {"prompt_format": "plain"}

    questions_per_step: Annotated[int, Field(ge=1)] = 8
    """Questions (groups of arms) of a step: PPO's batch."""
    samples_per_arm: Annotated[int, Field(ge=1)] = 1
    """Completions of every arm."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest completion, in tokens; longer ones are truncated."""
    arms: Arms = Field(default_factory=build_all_arms)
    """Custom arms; by default the eight of Regime W."""
    prompt_format: PromptFormatChoice = "auto"
    """`chat` renders an arm's system prompt and the question with the model's chat template, `plain` joins
    them as text; `auto` is chat where the model's tokenizer has a template."""
    stop: StopStrings = ()
    """Texts that end a completion once they are generated, such as "\\n\\nQuestion:"; they stay in it and
    are trained on."""
    seed: Seed | None = None
    """Seed of the sampling, for reproducible rollouts; without one the server samples a little faster."""
    max_staleness: Annotated[int, Field(ge=0)] = 1
    """How many versions behind the policy a rollout may be when it is trained on. 0 waits for every
    rollout (strictly on-policy); 1 generates the next batch while this one trains."""
    dynamic_sampling: bool = False
    """Replace questions whose completions all earn the same reward, and so carry no learning signal, by
    further ones: at most two for each question of a step. (DAPO, arXiv 2503.14476, section 3.2.)"""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_names(cls, given: Any) -> Any:
        """Runs begun under a key's earlier name are still read."""
        if isinstance(given, dict) and "refill_zero_variance" in given:
            given = dict(given)
            given.setdefault("dynamic_sampling", given["refill_zero_variance"])
            del given["refill_zero_variance"]
        return given
