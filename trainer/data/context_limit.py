"""Drops questions whose prompts leave no room for a completion in the model's context.

The server refuses them, and one overlong question in a dataset should not end a run of days.
"""

from collections.abc import Callable, Sequence
from functools import cache

from inference_server.wire.base_files import base_folder
from inference_server.wire.prompt_frames import Prompt
from inference_server.wire.prompts import PromptRenderer
from inference_server.wire.schemas import ServerStatus
from trainer.config.sections import RolloutConfig
from trainer.data.sources import Record
from trainer.errors import DataError
from trainer.model.prompts import load_renderer, most_prompt_tokens


def drop_overlong(
    records: Sequence[Record],
    base_model: str,
    rollout: RolloutConfig,
    status: ServerStatus,
    say: Callable[[str], None],
    *,
    max_tokens_key: str = "rollout.max_tokens",
) -> list[Record]:
    """The questions that the server can answer in ``rollout.max_tokens`` under every arm's prompt.

    Args:
        records: Questions.
        base_model: Its tokenizer counts the tokens. If it is not on this machine, nothing is dropped,
            and the server refuses overlong questions.
        rollout: Arms and length of completions.
        status: The server's status with its limits.
        say: Gets a line if questions are dropped.
        max_tokens_key: Name of the setting for the length of completions, for the message.
    """
    fits = context_check(base_model, rollout, status)
    too_long = {record.id for record in records if not fits(record)}
    if not too_long:
        return list(records)
    first = next(record.id for record in records if record.id in too_long)
    limit = status.limits.max_model_len_tokens
    say(
        f"data: {len(too_long)} of {len(records)} questions left out, such as {first}: their prompts "
        f"are longer than {limit - rollout.max_tokens} tokens, the context of {limit} less {max_tokens_key} "
        f"{rollout.max_tokens}"
    )
    return [record for record in records if record.id not in too_long]


def context_check(
    base_model: str, rollout: RolloutConfig, status: ServerStatus
) -> Callable[[Record], bool]:
    """A function that says whether `drop_overlong` keeps a question; it loads the tokenizer at most once."""
    system_prompts = dict.fromkeys(arm.system_prompt for arm in rollout.arms)
    room = status.limits.max_model_len_tokens - rollout.max_tokens

    @cache
    def renderer() -> PromptRenderer | None:
        return None if base_folder(base_model) is None else load_renderer(base_model)

    def fits(record: Record) -> bool:
        # Only the few prompts with many bytes have to be tokenized.
        most = most_prompt_tokens(system_prompts, record.question, rollout.prompt_format)
        if most <= room or (found := renderer()) is None:
            return True
        prompt_format = found.resolve(rollout.prompt_format)
        prompts = [Prompt(system_prompt=s, question=record.question) for s in system_prompts]
        return max(map(len, found.prompts(prompts, prompt_format))) <= room

    return fits


def fitting(
    records: Sequence[Record],
    base_model: str,
    rollout: RolloutConfig,
    status: ServerStatus,
    say: Callable[[str], None],
    *,
    max_tokens_key: str = "rollout.max_tokens",
) -> list[Record]:
    """As `drop_overlong`, but at least one question must be left.

    Raises:
        DataError: No question is left.
    """
    said: list[str] = []
    kept = drop_overlong(
        records, base_model, rollout, status, said.append, max_tokens_key=max_tokens_key
    )
    if not kept:
        raise DataError(f"no question can be asked; {said[-1]}")
    for line in said:
        say(line)
    return kept
