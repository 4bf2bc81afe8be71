"""One question through all arms, shown in the terminal with its Regime W scores."""

import asyncio

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from inference_server.wire.schemas import ArmGroup, ArmsRequest, Question, adapter_name
from regime_w.answer_types.choice import with_choices
from trainer.client.arms_client import ArmsClient
from trainer.config.safe_text import safe_text
from trainer.config.sections import SampleConfig
from trainer.data.columns import check_gold, usable_type


async def sample(config: SampleConfig) -> ArmGroup:
    """The scored group of all arms.

    Raises:
        DataError: The gold answer is not of the answer type, or the type cannot be used.
        ServerError: The server cannot be reached or refuses.
    """
    answer_type = usable_type(config.answer_type, config.choices)
    if config.gold is not None:
        check_gold(config.gold, "gold", answer_type)
    question = Question(
        id="sample",
        question=with_choices(config.question, config.choices),
        gold=config.gold,
        answer_type=config.answer_type,
        choices=config.choices,
    )
    request = ArmsRequest(
        questions=[question],
        arms=list(config.arms),
        max_tokens=config.max_tokens,
        prompt_format=config.prompt_format,
        stop=config.stop,
        seed=config.seed,
        policy="latest" if config.version is None else config.version,
        return_tokens=False,
        score=True,
    )
    async with ArmsClient(config.server.for_terminal()) as client:
        (group,) = (await client.generate(request)).groups
    return group


def as_table(group: ArmGroup) -> Table:
    """A table of the completions, one row per arm; model text is never read as markup."""
    version = "base" if group.policy_version is None else adapter_name(group.policy_version)
    table = Table(title=_shown(group.question), caption=f"sampled from {version}", show_lines=True)
    for heading in ("arm", "T", "completion", "answer"):
        table.add_column(heading)
    scores = group.scores
    for i, arm in enumerate(group.arms):
        answer = None if scores is None else scores.answers[i]
        correct = None if scores is None or scores.correct is None else scores.correct[i]
        mark = {True: " ✓", False: " ✗", None: ""}[correct]
        table.add_row(
            _shown(arm.arm),
            f"{arm.temperature:g}",
            _shown(arm.text.strip()),
            f"{_shown(answer or '–')}{mark}",
        )
    return table


def run_sample(config: SampleConfig) -> None:
    """Ask and print."""
    group = asyncio.run(sample(config))
    console = Console()
    console.print(as_table(group))
    if group.scores is not None:
        parts = {name: getattr(group.scores, name) for name in ("s_end", "s_path", "s_cf", "s_wm")}
        shown = (f"{name} {'–' if v is None else format(v, '.3f')}" for name, v in parts.items())
        consensus = _shown(group.scores.consensus or "–")
        console.print("  ".join((*shown, f"consensus {consensus}")), highlight=False)


def _shown(text: str) -> str:
    """A text of the model or the user, in which markup and terminal escapes have no effect."""
    return escape(safe_text(text))
