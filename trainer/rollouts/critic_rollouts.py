"""Checks whether the rollouts that a critic is fitted to were sampled in the way in which the run asks questions.

A critic values tokens that follow a prompt. With another tokenizer or prompt format, it would learn to value token
sequences that never occur in the run: this is an error. Other arms only occur less often: this is a warning.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from inference_server.wire.prompt_frames import Prompt
from inference_server.wire.schemas import ArmGroup
from trainer.config.sections import OfflineRunConfig, TrainConfig
from trainer.errors import DataError
from trainer.model.base_files import load_tokenizer
from trainer.model.prompts import renderer_of

_NUM_DECODED = 8
"""How many groups have their prompts compared; a few suffice, since a file has only one tokenizer."""


def sampling_warnings(
    path: Path, groups: Sequence[ArmGroup], config: TrainConfig | OfflineRunConfig
) -> list[str]:
    """One line if the rollouts' arms differ from the run's, else none.

    Args:
        path: The file of ``ppo.critic_rollouts``.
        groups: All groups of the file; those stored as text alone have no logprobs, and are not compared.
        config: The run's configuration. The arms are not compared for a run without a server, since that run takes
            its arms from its own file.

    Raises:
        DataError: The rollouts were sampled with another prompt format or another tokenizer.
    """
    field = f"ppo.critic_rollouts {path}"
    sampled = [group for group in groups if all(arm.logprobs for arm in group.arms)]
    base = config.policy.base_model
    tokenizer = load_tokenizer(base)
    renderer = renderer_of(tokenizer, base)
    ours = renderer.resolve(config.rollout.prompt_format)
    if other := {group.prompt_format or "plain" for group in sampled} - {ours}:
        raise DataError(
            f"{field}: sampled with {other.pop()} prompts, and this run asks with {ours} ones: collect "
            "anew, or set rollout.prompt_format"
        )

    def letters(token_ids: Iterable[int]) -> str:
        return "".join(tokenizer.decode([*token_ids]).split())

    arms = {arm.name: arm for arm in config.rollout.arms}
    prompts: set[str] = set()
    for group in sampled[:_NUM_DECODED]:
        question = letters(tokenizer(group.question, add_special_tokens=False)["input_ids"])
        for found in group.arms:
            if question not in letters(found.prompt_token_ids):
                raise DataError(
                    f"{field}: the tokens of its prompts are not those of {base}'s tokenizer; collect anew "
                    "with this base model"
                )
            if (arm := arms.get(found.arm)) is not None:
                prompt = Prompt(system_prompt=arm.system_prompt, question=group.question)
                if renderer.prompts([prompt], ours) != [found.prompt_token_ids]:
                    prompts.add(found.arm)
    if isinstance(config, OfflineRunConfig):
        return []
    asked = {(arm.name, arm.temperature, arm.top_p) for arm in config.rollout.arms}
    others = {found.arm for group in sampled for found in group.arms} - arms.keys()
    ways = {(a.arm, a.temperature, a.top_p) for group in sampled for a in group.arms} - asked
    different = {
        "arms that this run does not have": others,
        "another temperature or top_p": {name for name, _, _ in ways} - others,
        "another system prompt": prompts,
    }
    said = [f"{what} ({', '.join(sorted(names))})" for what, names in different.items() if names]
    return [f"warning: {field}: sampled with {', '.join(said)}"] if said else []
