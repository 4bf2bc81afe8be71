"""Rollout files that are trained on offline: our own rows, and the recipe's, which are text alone.

Text is tokenised again under its arm's prompt. The policy that sampled it is unknown, so such a
completion has no logprobs (`Sample.sampler_logprobs` is empty); the caller decides what replaces them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inference_server.wire.prompt_frames import Prompt
from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.prompts import PromptRenderer
from inference_server.wire.schemas import FinishReason
from regime_w import ArmSpec, RewardConfig, build_prompt
from trainer.config.sections import RolloutConfig
from trainer.data.sources import Record, check_gold
from trainer.errors import DataError
from trainer.io.jsonl import parse_row, read_lines
from trainer.rollouts.groups import Score, ScoredGroup, score_group
from trainer.rollouts.rows import RolloutCompletion, RolloutRow


@dataclass(frozen=True, kw_only=True)
class Retokeniser:
    """Turns texts into completions with tokens."""

    renderer: PromptRenderer
    prompt_format: PromptFormat
    """That the texts were sampled under, where their rows do not say."""
    arms: Mapping[str, ArmSpec]
    max_tokens: int
    """A text of this many tokens or more counts as truncated."""

    @classmethod
    def of(cls, renderer: PromptRenderer, rollout: RolloutConfig) -> "Retokeniser":
        """For the arms and the length that a configuration says the text was sampled with."""
        arms = rollout.arms
        return cls(
            renderer=renderer,
            prompt_format=renderer.resolve(rollout.prompt_format),
            arms={arm.name: arm for arm in arms},
            max_tokens=rollout.max_tokens,
        )

    def completion(
        self,
        stored: RolloutCompletion,
        question: str,
        where: str,
        prompt_format: PromptFormat | None = None,
    ) -> RolloutCompletion:
        """The text with its tokens, and with the one that ends it unless it is truncated; without logprobs.

        Raises:
            DataError: The arm is unknown.
        """
        spec = self.arms.get(stored.arm_name)
        if spec is None:
            raise DataError(
                f"{where}: arm {stored.arm_name!r} is none of {', '.join(self.arms)}; text alone needs "
                "its prompt: give its spec in rollout.arms"
            )
        # The recipe's collector decodes prompt and completion together.
        text = stored.full_text.removeprefix(build_prompt(spec.system_prompt, question))
        asked_as = prompt_format or self.prompt_format
        prompt = Prompt(system_prompt=spec.system_prompt, question=question)
        prompt_ids, token_ids = self.renderer.demonstration(prompt, text, asked_as)
        end_id = self.renderer.end_token_id(asked_as)
        is_truncated = len(token_ids) >= self.max_tokens
        return RolloutCompletion(
            arm_name=spec.name,
            sample=stored.sample,
            full_text=text,
            finish_reason=FinishReason.LENGTH if is_truncated else FinishReason.STOP,
            temperature=spec.temperature,
            top_p=spec.top_p,
            prompt_token_ids=prompt_ids,
            token_ids=token_ids if is_truncated or end_id is None else [*token_ids, end_id],
        )


class StoredRollouts:
    """The groups of a file, kept as lines and parsed on demand, which takes less memory."""

    def __init__(self, path: Path, retokeniser: Retokeniser, *, num_groups: int | None = None):
        """Read the whole file once.

        Args:
            path: JSONL, plain or compressed.
            retokeniser: For rows of text.
            num_groups: The most groups to read; all where None.

        Raises:
            DataError: A line is no rollout row, its gold answer is not one number, or there is none.
        """
        self._path = path
        self._retokeniser = retokeniser
        self._lines: dict[str, tuple[int, bytes]] = {}
        self.records: list[Record] = []
        self.num_completions = self.num_texts = 0
        self.versions: Counter[int | None] = Counter()
        for number, line in read_lines(path):
            row = self._parse(number, line)
            check_gold(row.gold_answer, f"{path}:{number}: gold_answer")
            name = row.id or f"{path.name.split('.')[0]}-{number:06d}"
            if name in self._lines:
                # The same question again, such as in a later epoch.
                name += f"@{number}"
            self._lines[name] = (number, line)
            self.records.append(Record(id=name, question=row.question, gold=row.gold_answer))
            self.versions[row.policy_version] += 1
            self.num_completions += len(row.arm_outputs)
            self.num_texts += sum(not arm.has_tokens for arm in row.arm_outputs)
            if len(self.records) == num_groups:
                break
        if not self.records:
            raise DataError(f"{path}: no rollouts")

    def group(
        self, record: Record, config: RewardConfig, score: Score = score_group
    ) -> ScoredGroup:
        """A record's group, scored and rewarded by ``score`` under a configuration.

        Raises:
            DataError: A completion is text alone and its arm is unknown.
        """
        number, line = self._lines[record.id]
        row = self._parse(number, line)
        completions = [
            arm
            if arm.has_tokens
            else self._retokeniser.completion(
                arm, row.question, f"{self._path}:{number}", row.prompt_format
            )
            for arm in row.arm_outputs
        ]
        return row.model_copy(update={"id": record.id, "arm_outputs": completions}).scored(
            config, score
        )

    def _parse(self, number: int, line: bytes) -> RolloutRow:
        return parse_row(RolloutRow, line, f"{self._path}:{number}")


def format_of_file(path: Path) -> PromptFormat:
    """The prompt format of a file's first row; plain where it does not say.

    Raises:
        DataError: The row is no rollout row, or there is none.
    """
    for number, line in read_lines(path):
        return parse_row(RolloutRow, line, f"{path}:{number}").prompt_format or "plain"
    raise DataError(f"{path}: no rollouts")
