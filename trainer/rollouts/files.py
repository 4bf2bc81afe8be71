"""Rollouts read back from a file: our own rows, and those of the recipe, which are text alone.

Text is tokenised again under its arm's prompt. What sampled it is not known, so such a completion has no
logprobs (`Sample.sampler_logprobs` is empty): whoever trains on it says what it takes for them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from inference_server.wire.schemas import FinishReason
from regime_w import ArmSpec, RewardConfig, build_prompt
from trainer.config.sections import RolloutConfig
from trainer.data.sources import Record
from trainer.errors import DataError
from trainer.io.jsonl import read_lines
from trainer.rollouts.groups import RolloutCompletion, RolloutRow, ScoredGroup


@dataclass(frozen=True, kw_only=True)
class Retokeniser:
    """Makes completions of text."""

    tokenizer: Any
    arms: Mapping[str, ArmSpec]
    max_tokens: int
    """A text of so many tokens was cut off."""

    @classmethod
    def of(cls, tokenizer: Any, rollout: RolloutConfig) -> "Retokeniser":
        """For the arms and the length that a configuration says the text was sampled with."""
        arms = rollout.resolved_arms
        return cls(
            tokenizer=tokenizer,
            arms={arm.name: arm for arm in arms},
            max_tokens=rollout.max_tokens,
        )

    def completion(self, stored: RolloutCompletion, question: str, where: str) -> RolloutCompletion:
        """The text with its tokens, EOS included where it was not cut off; without logprobs.

        Raises:
            DataError: The arm is not known.
        """
        spec = self.arms.get(stored.arm_name)
        if spec is None:
            raise DataError(
                f"{where}: arm {stored.arm_name!r} is none of {', '.join(self.arms)}; text alone needs "
                "its prompt: give its spec in rollout.arms"
            )
        prompt = build_prompt(spec.system_prompt, question)
        # The recipe's collector decodes prompt and completion together.
        text = stored.full_text.removeprefix(prompt)
        prompt_ids, token_ids = self.tokenizer([prompt, text], add_special_tokens=False)[
            "input_ids"
        ]
        is_cut_off = len(token_ids) >= self.max_tokens
        return RolloutCompletion(
            arm_name=spec.name,
            sample=stored.sample,
            full_text=text,
            finish_reason=FinishReason.LENGTH if is_cut_off else FinishReason.STOP,
            temperature=spec.temperature,
            top_p=spec.top_p,
            prompt_token_ids=prompt_ids,
            token_ids=token_ids if is_cut_off else [*token_ids, self.tokenizer.eos_token_id],
        )


class StoredRollouts:
    """The groups of a file; kept as they are stored and read when they are asked for."""

    def __init__(self, path: Path, retokeniser: Retokeniser, *, num_groups: int | None = None):
        """Read the file through.

        Args:
            path: JSONL, plain or compressed.
            retokeniser: For rows of text.
            num_groups: How many to read at most.

        Raises:
            DataError: A line is no group of rollouts, or there is none.
        """
        self._path = path
        self._retokeniser = retokeniser
        self._lines: dict[str, tuple[int, bytes]] = {}
        self.records: list[Record] = []
        self.num_completions = self.num_texts = 0
        self.versions: Counter[int | None] = Counter()
        for number, line in read_lines(path):
            group = self._parse(number, line)
            name = group.id or f"{path.name.split('.')[0]}-{number:06d}"
            if name in self._lines:
                # The same question once more, such as in a later epoch.
                name += f"@{number}"
            self._lines[name] = (number, line)
            self.records.append(Record(id=name, question=group.question, gold=group.gold_answer))
            self.versions[group.policy_version] += 1
            self.num_completions += len(group.arm_outputs)
            self.num_texts += sum(not arm.has_tokens for arm in group.arm_outputs)
            if len(self.records) == num_groups:
                break
        if not self.records:
            raise DataError(f"{path}: no rollouts")

    def group(self, record: Record, config: RewardConfig) -> ScoredGroup:
        """A record's group with what it earns under a configuration.

        Raises:
            DataError: An arm of it is text alone and not known.
        """
        number, line = self._lines[record.id]
        stored = self._parse(number, line)
        completions = [
            arm
            if arm.has_tokens
            else self._retokeniser.completion(arm, stored.question, f"{self._path}:{number}")
            for arm in stored.arm_outputs
        ]
        return stored.model_copy(update={"id": record.id, "arm_outputs": completions}).scored(
            config
        )

    def _parse(self, number: int, line: bytes) -> RolloutRow:
        try:
            return RolloutRow.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "line"
            raise DataError(f"{self._path}:{number}: {field}: {first['msg']}") from None
