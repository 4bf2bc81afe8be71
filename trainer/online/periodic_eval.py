"""Evaluates the policy on held-out questions while training continues.

One version at a time answers the questions greedily; its requests go ahead of rollouts in the engine's queue. The
first is the version that the run begins with, for the others to be compared with. The step of the best of the others
is kept in ``checkpoints/best.json``.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from math import comb
from typing import Self

from trainer.client.protocol import GreedyPrompt
from trainer.config.sections import TrainConfig
from trainer.data.sources import Record
from trainer.evaluation.statistics import is_below_best, wilson_interval
from trainer.io.metrics_file import Metrics
from trainer.online.published import Published
from trainer.online.versions import Versions
from trainer.run_state.best import Best, read_best, write_best
from trainer.run_state.recorded_questions import SourceQuestions


@dataclass(frozen=True, kw_only=True)
class _PendingEvaluation:
    """An evaluation that still waits for answers."""

    step: int
    published: Published
    num_correct: Future[int]


class HeldOutEvaluations:
    """The run's evaluations, at most one at a time; leaving the block cancels the pending one."""

    def __init__(
        self,
        versions: Versions,
        config: TrainConfig,
        questions: SourceQuestions | None,
        say: Callable[[str], None],
    ):
        """Nothing is asked before `start`.

        Args:
            versions: Knows the server, and pushes a version again that it has lost.
            config: The run's configuration.
            questions: What is asked; None only if the run evaluates nothing.
            say: Gets a line for each evaluation that is skipped.
        """
        self._versions = versions
        self._run = config.run
        self._say = say
        self._pending: _PendingEvaluation | None = None
        self._records = () if questions is None else questions.asked
        self._fallen_from: Best | None = None
        rollout = config.rollout
        self._prompt = GreedyPrompt(
            system_prompt=rollout.arms[0].system_prompt,
            prompt_format=rollout.prompt_format,
            max_tokens=rollout.max_tokens,
            stop=rollout.stop,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Cancel the pending evaluation."""
        if self._pending is not None:
            self._pending.num_correct.cancel()

    @property
    def evaluating(self) -> int | None:
        """The step that is being evaluated; None if no evaluation is pending."""
        return None if self._pending is None else self._pending.step

    @property
    def versions(self) -> set[int]:
        """The version being evaluated and the best version; the adapters of both are kept.

        The best of earlier starts counts also if this start evaluates nothing.
        """
        best = read_best(self._run.folder)
        pending = None if self._pending is None else self._pending.published
        return {found.version for found in (best, pending) if found is not None}

    def is_due(self, step: int) -> bool:
        """Whether the policy is to be evaluated after a step."""
        return step == self.newest_due(step)

    def newest_due(self, step: int) -> int | None:
        """The newest step up to this one after which the policy is to be evaluated; 0 is the run's beginning."""
        every = self._run.evaluate_every
        return None if every is None else step - step % every

    def owed(self, step: int, last_evaluated: int | None) -> tuple[int, ...]:
        """The steps of which one is to be evaluated when the run starts; the first whose version can be served.

        Args:
            step: The number of steps done.
            last_evaluated: The newest step whose evaluation is recorded; None if none is.
        """
        newest = self.newest_due(step)
        if newest is None or (last_evaluated is not None and newest <= last_evaluated):
            return ()
        # Where a best one is known, only the record of the evaluations was lost.
        is_first = last_evaluated is None and read_best(self._run.folder) is None
        return (0, newest) if is_first else (newest,)

    def start(self, step: int, published: Published) -> None:
        """Ask a version the held-out questions, unless an earlier evaluation is still pending."""
        if self._pending is not None:
            self._say(
                f"no evaluation of step {step}: that of step {self._pending.step} is not finished; "
                "raise run.evaluate_every"
            )
            return
        future = self._versions.requests.start(self._ask, published)
        self._pending = _PendingEvaluation(step=step, published=published, num_correct=future)

    def collect(self, *, wait: bool) -> Metrics:
        """The metrics of an evaluation that finished since the last call, under ``eval/`` names.

        If its accuracy is the best so far, it is written to ``checkpoints/best.json``. The version that the run began
        with is never the best: it is not trained, and to go on from it would be to begin again.

        Args:
            wait: Whether to wait for the pending evaluation.
        """
        evaluation = self._pending
        if evaluation is None or not (wait or evaluation.num_correct.done()):
            return {}
        num_correct = evaluation.num_correct.result()
        self._pending = None
        version = evaluation.published.version
        counts = (num_correct, len(self._records))
        accuracy = num_correct / len(self._records)
        low, high = wilson_interval(*counts)
        found = {
            "eval/accuracy": accuracy,
            "eval/low": low,
            "eval/high": high,
            "eval/num_questions": len(self._records),
            "eval/step": evaluation.step,
            "eval/version": version,
        }
        if evaluation.step == 0:
            return found
        best = read_best(self._run.folder)
        if best is None or accuracy > best.accuracy:
            best = Best(
                step=evaluation.step,
                version=version,
                adapter=str(evaluation.published.folder.relative_to(self._run.folder)),
                accuracy=accuracy,
                num_questions=len(self._records),
            )
            write_best(self._run.folder, best)
        of_best = (round(best.accuracy * best.num_questions), best.num_questions)
        is_worse = is_below_best(counts, of_best, num_comparisons=self._num_comparisons)
        # A version from before the last return has weights that the run has already abandoned.
        is_new = self._versions.adapters.is_since_return(version)
        self._fallen_from = best if is_worse and is_new else None
        return {**found, "eval/best_accuracy": best.accuracy, "eval/best_step": best.step}

    def better_to_go_on_from(self) -> Best | None:
        """The best evaluation, if a newer one is worse and ``run.return_to_best`` is set; once for each newer one.

        An evaluation is worse if it `is_below_best`. Versions from before the last return do not count.
        """
        best, self._fallen_from = self._fallen_from, None
        return best if self._run.return_to_best else None

    @property
    def _num_comparisons(self) -> int:
        """One for every pair of the run's evaluations, since any later one may be compared with any earlier one.

        With 95% for each comparison, a run whose accuracy does not change would return in up to half of its evaluations.
        """
        return comb(self._run.num_steps // (self._run.evaluate_every or 1), 2)

    async def _ask(self, published: Published) -> int:
        """How many questions a version answers correctly."""
        questions = [record.question for record in self._records]
        completions = await self._versions.complete(published.version, questions, self._prompt)
        texts = [completion.text for completion in completions]
        # Not on the request thread, which slow answer comparisons would hold up.
        return await asyncio.to_thread(_num_correct, texts, self._records)


def _num_correct(texts: Sequence[str], records: Sequence[Record]) -> int:
    return sum(record.is_answered_by(text) for text, record in zip(texts, records, strict=True))
