"""Rollout files for offline training: rows in this project's format, and the recipe's rows, which hold only text.

Text is tokenised again after its arm's prompt. The policy that sampled it is unknown, so such a
completion has no logprobs (`Sample.sampler_logprobs` is empty); the caller decides what replaces them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from inference_server.wire.prompt_frames import Prompt
from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.prompts import PromptRenderer
from inference_server.wire.schemas import FinishReason
from regime_w import ArmSpec, RewardConfig, build_prompt
from trainer.config.sections import OfflineRunConfig, RolloutConfig, TrainConfig
from trainer.data.columns import check_gold
from trainer.data.sources import Record
from trainer.errors import DataError
from trainer.io.jsonl import parse_row, read_lines
from trainer.model.base_files import BaseLimits, base_limits
from trainer.model.prompts import load_renderer, most_prompt_tokens
from trainer.rollouts.groups import Score, ScoredGroup, score_group
from trainer.rollouts.rows import RolloutCompletion, RolloutRow, flaw_in_tokens


@dataclass(frozen=True, kw_only=True)
class RowLimits:
    """Limits that a row must not exceed to be trained on."""

    base: BaseLimits
    token_budget: int
    """``ppo.token_budget``; a completion and its prompt have to fit into one pass."""


@dataclass(frozen=True, kw_only=True)
class Retokeniser:
    """Turns texts into completions with tokens."""

    renderer: PromptRenderer
    prompt_format: PromptFormat
    """The format of the prompts that the texts were sampled with, if their rows do not say."""
    arms: Mapping[str, ArmSpec]
    max_tokens: int
    """A text of this many tokens or more counts as truncated."""

    @classmethod
    def of(cls, renderer: PromptRenderer, rollout: RolloutConfig) -> "Retokeniser":
        """A retokeniser for texts that were sampled with the arms and the ``max_tokens`` of a configuration."""
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
        """The text as tokens, with the end token unless it is truncated; without logprobs.

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
    """The groups of a file; their lines are kept and parsed on demand, which takes less memory."""

    def __init__(
        self,
        path: Path,
        retokeniser: Retokeniser,
        *,
        num_groups: int | None,
        limits: RowLimits,
    ):
        """Read the whole file once.

        Args:
            path: JSONL, plain or compressed.
            retokeniser: Used for rows that hold only text.
            num_groups: The most groups to read; None reads all.
            limits: Rows longer than the base model's context are left out, and counted in `overlong`.

        Raises:
            DataError: A line is not a rollout row, its gold answer is not one number, it has tokens that the base
                model does not have, or a completion longer than the token budget; or there are no rollouts.
        """
        self._path = path
        self._retokeniser = retokeniser
        self._limits = limits
        self.lines: dict[str, tuple[int, bytes]] = {}
        """Number and content of the line of each record, by the record's id."""
        self.records: list[Record] = []
        self.num_completions = self.num_texts = 0
        self.versions: Counter[int | None] = Counter()
        self.dtypes: Counter[str | None] = Counter()
        """How many rows each server dtype has; the key is None for rows that do not say."""
        self.overlong: list[str] = []
        """The place and the length of each row that was left out."""
        self.num_repeated = 0
        """Rows with the same question, version and completions as an earlier row."""
        known = set[int]()
        for number, line in read_lines(path):
            row = self._parse(number, line)
            check_gold(row.gold_answer, f"{path}:{number}: gold_answer", row.record.answer_type)
            if not self._fits(row, f"{path}:{number}"):
                continue
            name = row.id or f"{path.name.split('.')[0]}-{number:06d}"
            if name in self.lines:
                # The same question occurs again, for example in a later epoch.
                name += f"@{number}"
            said = [(arm.arm_name, arm.sample, arm.full_text) for arm in row.arm_outputs]
            content = hash((row.question, row.policy_version, *said))
            self.num_repeated += content in known
            known.add(content)
            self.lines[name] = (number, line)
            self.records.append(replace(row.record, id=name, columns={}))
            self.versions[row.policy_version] += 1
            self.dtypes[row.dtype] += 1
            self.num_completions += len(row.arm_outputs)
            self.num_texts += sum(not arm.has_tokens for arm in row.arm_outputs)
            if len(self.records) == num_groups:
                break
        if not self.records:
            raise DataError(f"{path}: no rollouts{''.join(f'; {line}' for line in self.left_out)}")

    @property
    def left_out(self) -> list[str]:
        """One line about the rows that were left out; empty if there are none."""
        if not self.overlong:
            return []
        return [
            f"{len(self.overlong)} questions of {self._path} left out, {self.overlong[0]}: longer than the "
            f"context of {self._limits.base.context_tokens} of policy.base_model"
        ]

    def _fits(self, row: RolloutRow, where: str) -> bool:
        """Whether a row fits the base model's context.

        Raises:
            DataError: It has tokens that the base model does not have, or a completion longer than the token budget.
        """
        limits = self._limits
        if flaw := flaw_in_tokens(row.arm_outputs, limits.base.vocab_size):
            raise DataError(f"{where}: {flaw}; was it collected with another model?")
        context, budget = limits.base.context_tokens, limits.token_budget
        for arm in row.arm_outputs:
            found = self._with_tokens(arm, row, where, at_least=min(context, budget))
            num_tokens = len(found.prompt_token_ids) + len(found.token_ids)
            if num_tokens > context:
                self.overlong.append(f"{where} with {num_tokens} tokens")
                return False
            if num_tokens > budget:
                raise DataError(
                    f"{where}: {arm.arm_name}: {num_tokens} tokens, more than ppo.token_budget = {budget}: "
                    "raise it, or leave the row out of the file"
                )
        return True

    def _with_tokens(
        self, arm: RolloutCompletion, row: RolloutRow, where: str, *, at_least: int = 0
    ) -> RolloutCompletion:
        """A completion with its tokens; a text that is too short to have ``at_least`` tokens stays as it is."""
        if arm.has_tokens:
            return arm
        of_prompt = most_prompt_tokens(
            (spec.system_prompt for spec in self._retokeniser.arms.values()),
            row.question,
            row.prompt_format or self._retokeniser.prompt_format,
        )
        if len(arm.full_text.encode()) + of_prompt < at_least:
            return arm
        return self._retokeniser.completion(arm, row.question, where, row.prompt_format)

    def group(
        self, record: Record, config: RewardConfig, score: Score = score_group
    ) -> ScoredGroup:
        """A record's group, scored and rewarded by ``score`` with a reward configuration.

        Raises:
            DataError: A completion is only text and its arm is unknown.
        """
        number, line = self.lines[record.id]
        row = self._parse(number, line)
        where = f"{self._path}:{number}"
        completions = [self._with_tokens(arm, row, where) for arm in row.arm_outputs]
        found = row.model_copy(update={"id": record.id, "arm_outputs": completions})
        return found.scored(config, score)

    def _parse(self, number: int, line: bytes) -> RolloutRow:
        return parse_row(RolloutRow, line, f"{self._path}:{number}")


def open_rollouts(
    path: Path, config: TrainConfig | OfflineRunConfig, *, num_groups: int | None = None
) -> StoredRollouts:
    """Open a file of rollouts to train on with a configuration; see `StoredRollouts`."""
    base_model = config.policy.base_model
    return StoredRollouts(
        path,
        Retokeniser.of(load_renderer(base_model), config.rollout),
        num_groups=num_groups,
        limits=RowLimits(base=base_limits(base_model), token_budget=config.ppo.token_budget),
    )


def format_of_file(path: Path) -> PromptFormat:
    """The prompt format of a file's first row; ``plain`` if the row does not say.

    Raises:
        DataError: The first row is not a rollout row, or the file has no rows.
    """
    for number, line in read_lines(path):
        return parse_row(RolloutRow, line, f"{path}:{number}").prompt_format or "plain"
    raise DataError(f"{path}: no rollouts")
