"""When a version is held against what was pushed, and by which completions of it.

A step's own rollouts are the proof of the version that generated them: it is due before the step is journaled
and trains, so that nothing unproven trains. A version without rollouts (of a run's last step, or one that is pushed
again when a run resumes) is asked a probe: the beginnings of answers to several training questions.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial

from torch import Tensor

from inference_server.wire.schemas import ArmGroup, ArmsRequest, Priority, Question
from regime_w import ArmSpec
from trainer.config.sections import TrainConfig
from trainer.console.tracking import Metrics
from trainer.data.sources import Record
from trainer.errors import SyncError
from trainer.model.batch import Sample
from trainer.model.roles import PolicyRoles
from trainer.online.sync_alternatives import ComputedExplanations, Published
from trainer.online.sync_check import SyncCheck
from trainer.online.versions import Versions
from trainer.ppo.experience import MiniBatch
from trainer.rollouts.groups import RolloutBatch, as_sample

_SCORED_TOKENS = 8192
"""Of a step's completions, at most: enough to know the noise to a few per cent."""
_PROBE_COMPLETIONS = 64
"""Of a probe: the test counts completions, and a z over 5.3 takes at least 28."""
_FEWEST_QUESTIONS = 8
_PROBE_TOKENS = 16
"""Of each completion, at most."""
_TIMES_MORE = 2
"""How many times as many questions decide once a version is suspected."""
_PROBE_SEED = 0


class Proofs:
    """Holds every version of a run against what was pushed; plain methods are for the training thread."""

    def __init__(
        self,
        versions: Versions,
        config: TrainConfig,
        records: Sequence[Record],
        *,
        server_dtype: str,
        past: Sequence[Metrics] = (),
    ):
        """Nothing is asked before the first call.

        Args:
            versions: Of the run.
            config: Of the run.
            records: Training questions, for probes.
            server_dtype: What the server computes in, e.g. ``float32``.
            past: Metrics of the run's earlier steps.
        """
        self.metrics: Metrics = {}
        """Of the newest proof, under ``sync/`` names."""
        self._versions = versions
        self._arms: tuple[ArmSpec, ...] = config.rollout.arms
        self._prompt_format = config.rollout.prompt_format
        self._num_tokens = min(_PROBE_TOKENS, config.rollout.max_tokens)
        self._num_questions = max(_FEWEST_QUESTIONS, -(-_PROBE_COMPLETIONS // len(self._arms)))
        """Of a probe."""
        self._questions = [record.question for record in records]
        self._check = SyncCheck(config, server_dtype=server_dtype, past=past)
        self._proven: set[int] = set()

    def prove_rollouts(
        self, batch: RolloutBatch, mini_batches: Sequence[MiniBatch], roles: PolicyRoles
    ) -> None:
        """Prove a version by the rollouts that are about to train; overwrites the proximal role.

        Args:
            batch: The rollouts.
            mini_batches: Their experience.
            roles: Hold the version as proximal policy.

        Raises:
            SyncError: The server does not serve what was pushed, or sampled in another way than asked.
        """
        published = self._published(batch.version)
        self._require_listed(published)
        groups = [group.group for group in batch.groups]
        self._require_sampled_as_asked(batch.version, groups)
        samples, pushed = _scored(mini_batches, max_tokens=_SCORED_TOKENS)
        self._prove(published, samples, roles, pushed=pushed)

    def prove(self, published: Published, roles: PolicyRoles) -> None:
        """Prove a version by a probe, unless its rollouts have; overwrites the proximal role.

        Raises:
            SyncError: As `prove_rollouts`.
        """
        if published.version not in self._proven:
            self._require_listed(published)
            samples = self._probe(published.version, 0, self._num_questions)
            self._prove(published, samples, roles)

    def _prove(
        self,
        published: Published,
        samples: Sequence[Sample],
        roles: PolicyRoles,
        *,
        pushed: Sequence[Tensor] | None = None,
    ) -> None:
        version = published.version
        num_questions = self._num_questions
        outcome = self._check.prove(
            samples,
            ComputedExplanations(
                roles=roles,
                published=published,
                earlier=partial(self._earlier, version),
            ),
            pushed=pushed,
            ask_more=lambda: self._probe(version, num_questions, _TIMES_MORE * num_questions),
        )
        self.metrics = outcome.metrics
        self._proven.add(version)

    def _earlier(self, version: int) -> Iterator[Published]:
        return map(self._published, self._versions.adapters.before(version))

    def _published(self, version: int) -> Published:
        adapters = self._versions.adapters
        return Published(
            version=version,
            folder=adapters.folder_of(version),
            sha256=adapters.sha256_of(version),
            activated=False,
        )

    def _require_listed(self, published: Published) -> None:
        requests, version = self._versions.requests, published.version
        held = requests.call(partial(self._versions.info, version))
        if held.sha256 != published.sha256 or held.active < published.activated:
            state = "active" if held.active else "not active"
            raise SyncError(
                f"version {version} fails the proof of sync: the server lists it as "
                f"{state} with digest {held.sha256}; pushed was {published.sha256}"
            )

    def _require_sampled_as_asked(self, version: int, groups: Sequence[ArmGroup]) -> None:
        asked = {arm.name: (arm.temperature, arm.top_p) for arm in self._arms}
        for arm in (arm for group in groups for arm in group.arms):
            temperature, top_p = asked[arm.arm]
            if (arm.temperature, arm.top_p) != (temperature, top_p):
                raise SyncError(
                    f"version {version} fails the proof of sync: arm {arm.arm} was asked "
                    f"at temperature {temperature:g} and top_p {top_p:g}, and sampled at "
                    f"{arm.temperature:g} and {arm.top_p:g}"
                )

    def _probe(self, version: int, first: int, num_questions: int) -> list[Sample]:
        """The beginnings of all arms' answers to some training questions."""
        asked: list[Future[tuple[ArmGroup, int]]] = []
        for number in range(first, first + num_questions):
            request = ArmsRequest(
                questions=[
                    Question(
                        id=f"probe-{number}",
                        question=self._questions[number % len(self._questions)],
                    )
                ],
                arms=list(self._arms),
                prompt_format=self._prompt_format,
                max_tokens=self._num_tokens,
                seed=_PROBE_SEED,
                policy=version,
                priority=Priority.AD_HOC,
            )
            asked.append(self._versions.requests.start(self._versions.group, request))
        groups = [future.result()[0] for future in asked]
        self._require_sampled_as_asked(version, groups)
        return _samples(groups)


def _scored(
    mini_batches: Sequence[MiniBatch], *, max_tokens: int
) -> tuple[list[Sample], list[Tensor]]:
    """A step's completions up to ``max_tokens``, and their logprobs under the proximal policy, [C] each."""
    samples: list[Sample] = []
    logprobs: list[Tensor] = []
    num_tokens = 0
    for e in (e for mini_batch in mini_batches for e in mini_batch):
        if num_tokens >= max_tokens:
            break
        rows = zip(e.proximal_logprobs.float().cpu(), e.batch.mask.cpu(), strict=True)
        samples += e.batch.samples
        logprobs += [row[mask] for row, mask in rows]
        num_tokens += int(e.batch.mask.sum())
    return samples, logprobs


def _samples(groups: Sequence[ArmGroup]) -> list[Sample]:
    return [as_sample(arm, version=group.policy_version) for group in groups for arm in group.arms]
