"""What is generated for each step, and how it is rewarded."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, model_validator

from inference_server.wire.prompt_options import PromptFormatChoice, StopStrings
from inference_server.wire.schemas import MAX_ARMS, MIN_TEMPERATURE
from inference_server.wire.settings.model import SettingsModel
from regime_w import ArmSpec, RewardConfig, build_all_arms
from regime_w.arms import ARM_SETS, named_arms
from trainer.config.base import Seed

_OWN_ARMS = TypeAdapter(dict[int, ArmSpec])


def _by_name(arms: object) -> object:
    """Replace names by their arms, and null by the recipe's arms."""
    # A null given as a flag is read as a list with one element.
    if arms is None or arms == [None]:
        return build_all_arms()
    if isinstance(arms, str):
        arms = [arms]
    if isinstance(arms, Mapping):
        raise ValueError("must be a list: write [[rollout.arms]], in two brackets, for each arm")
    if not isinstance(arms, list | tuple) or not arms:
        raise ValueError(
            f"must be a set of arms ({', '.join(ARM_SETS)}) or a list of arms, by name or as tables; left "
            "out, it is the recipe's eight"
        )
    # Keyed by the place in the given list, which errors name; the name of a set stands for several arms.
    own = _OWN_ARMS.validate_python({i: a for i, a in enumerate(arms) if not isinstance(a, str)})
    return [
        spec
        for i, arm in enumerate(arms)
        for spec in (named_arms(arm) if isinstance(arm, str) else [own[i]])
    ]


def _as_the_server_takes_them(arms: tuple[ArmSpec, ...]) -> tuple[ArmSpec, ...]:
    names = [arm.name for arm in arms]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            f"two arms have the name {repeated[0]!r}; give each a name of its own (the names in a set are the "
            "recipe's eight)"
        )
    if len(arms) > MAX_ARMS:
        raise ValueError(f"{len(arms)} arms; the server takes {MAX_ARMS}")
    for arm in arms:
        if arm.temperature < MIN_TEMPERATURE:
            raise ValueError(
                f"temperature {arm.temperature} of arm {arm.name!r} is below {MIN_TEMPERATURE}, the lowest "
                "that vLLM samples at"
            )
    return arms


def _is_recipe(arms: object) -> bool:
    return arms == build_all_arms()


Arms = Annotated[
    tuple[ArmSpec, ...],
    BeforeValidator(_by_name),
    AfterValidator(_as_the_server_takes_them),
    # A run's config.toml does not spell out the recipe's eight: there, a missing key means them.
    Field(exclude_if=_is_recipe),
]
"""Arms to ask: never empty, and null is read as the eight of Regime W."""


class RolloutConfig(SettingsModel):
    """What is generated for each step."""

    questions_per_step: Annotated[int, Field(ge=1, le=65_536)] = 8
    """Questions (groups of arms) of a step, which are PPO's batch."""
    samples_per_arm: Annotated[int, Field(ge=1)] = 1
    """Completions that each arm generates for a question."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest completion, in tokens; longer ones are truncated."""
    arms: Arms = Field(default_factory=build_all_arms)
    """`recipe` (the eight of Regime W), `exploring` (the same names and prompts at temperatures of 0.6 to 1.2 and
    top_p 1), or a list of arms: names of the recipe's arms, such as "wolfram_0", and tables with your own."""
    prompt_format: PromptFormatChoice = "auto"
    """`chat` renders an arm's system prompt and the question with the model's chat template, `plain` joins
    them as text. `auto` is `chat` if the model's tokenizer has a template, else `plain`."""
    stop: StopStrings = ()
    """Texts that end a completion once they are generated, such as `["\\n\\nQuestion:"]`. They stay part of the
    completion and are trained on."""
    seed: Seed | None = None
    """Seed of the sampling, for reproducible rollouts. With null the server samples a little faster."""
    max_staleness: Annotated[int, Field(ge=0)] = 1
    """How many versions behind the policy a rollout may be when it is trained on. With 0 the trainer waits for every
    rollout (strictly on-policy). With 1 the next batch is generated while this one trains."""
    dynamic_sampling: bool = False
    """Replace questions whose completions all earn the same reward, since they carry no learning signal, by further
    questions: at most two for each question of a step. (DAPO, arXiv 2503.14476, section 3.2.)"""


REGIME_W = "regime_w"
"""The name of Regime W in ``reward.functions``."""
_MAX_TIMEOUT_S = 86_400


def _is_function(given: str) -> str:
    target, _, name = given.rpartition(":")
    if given == REGIME_W or (target and name.isidentifier()):
        return given
    raise ValueError(
        f"{given!r} is neither {REGIME_W!r} nor 'pkg.module:name' nor 'path/to/file.py:name'"
    )


def short_name(function: str) -> str:
    """A function's name in metrics and rollouts: without the folders of its file."""
    return function.rpartition("/")[2]


class RewardSettings(RewardConfig, SettingsModel):
    """What a completion earns: the weighted sum of Regime W and of your own functions."""

    functions: Annotated[
        tuple[Annotated[str, AfterValidator(_is_function)], ...], Field(min_length=1)
    ] = (REGIME_W,)
    """Functions whose rewards are summed: `regime_w`, which the keys above configure, and your own, as
    `pkg.module:name` or `path/to/file.py:name`. A function of your own is called as TRL calls its reward_funcs: with the
    lists `prompts` (questions), `completions`, `completion_ids`, `question`, `answer`, `arm` and every other column of
    the data as keywords. It returns a number for each completion, or None if it has no reward for it."""
    weights: tuple[float, ...] = ()
    """Weight of each entry of reward.functions; empty gives each the weight 1."""
    timeout_s: Annotated[float, Field(gt=0, le=_MAX_TIMEOUT_S)] = 60.0
    """Longest time that one of your functions may take for one question's completions, in seconds."""

    @model_validator(mode="after")
    def _functions_are_told_apart(self) -> Self:
        if self.weights and len(self.weights) != len(self.functions):
            raise ValueError(
                f"reward.weights has {len(self.weights)} and reward.functions {len(self.functions)} "
                "entries: give each function a weight"
            )
        names = [short_name(function) for function in self.functions]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"reward.functions has two called {repeated[0]!r}; give each a name")
        return self

    @property
    def is_regime_w(self) -> bool:
        """Whether Regime W is the only reward function."""
        return self.functions == (REGIME_W,)

    @property
    def weight_of(self) -> Mapping[str, float]:
        """The weight of each function."""
        return dict(zip(self.functions, self.weights or (1.0,) * len(self.functions), strict=True))
