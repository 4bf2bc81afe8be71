"""Decides when a served version is checked against what was pushed, and with which completions.

A step's own rollouts prove the version that generated them. This check comes before the step is journaled and
trained on, so that no unproven rollouts train. A version without rollouts that train (the version of a run's last
step, one that is pushed again when a run resumes, or one whose rollouts have no rewards) is proven by a probe: it
generates the beginnings of answers to several training questions.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial

from torch import Tensor

from inference_server.wire.schemas import ArmGroup, ArmsRequest, Priority, Question
from regime_w import ArmSpec
from trainer.config.sections import TrainConfig
from trainer.data.sources import Record
from trainer.errors import ServerRejectedError, ServerUnreachableError, SyncError
from trainer.io.metrics_file import Metrics
from trainer.model.batches.sample import Sample
from trainer.model.device import halved_if_out_of_memory
from trainer.online.published import Published
from trainer.online.versions import Versions
from trainer.online.weight_sync.alternatives import ComputedExplanations
from trainer.online.weight_sync.check import SyncCheck
from trainer.online.weight_sync.outcome import SyncOutcome
from trainer.online.weight_sync.samples import samples_of, scored_samples
from trainer.ppo.experience import MiniBatch
from trainer.ppo.learner import Learner
from trainer.rollouts.groups import RolloutBatch
from trainer.servers.origins import THE_SERVER, Origin, by_origin, replicas_of
from trainer.servers.pinned_server import PinnedServer
from trainer.servers.pool import ServerPool

_SCORED_TOKENS = 8192
"""At most about this many tokens of a step's completions are scored: enough to know the noise to a few per cent."""
_PROBE_COMPLETIONS = 64
"""Completions of a probe. The test counts completions, and a z over 5.3 takes at least 28 of them."""
_FEWEST_QUESTIONS = 8
_PROBE_TOKENS = 16
"""The most tokens of each probe completion."""
_TIMES_MORE = 2
"""Before a suspected version is judged, it is asked this many times as many further questions as a probe has."""
_PROBE_SEED = 0
_TOKEN_BUDGET = 4096
"""The most tokens of a forward pass, unless the learner's micro-batches are smaller."""

_log = logging.getLogger(__name__)


class Proofs:
    """Checks every version of a run against what was pushed; to be called from the training thread."""

    def __init__(
        self,
        versions: Versions,
        learner: Learner,
        config: TrainConfig,
        records: Sequence[Record],
        *,
        server_dtype: str,
        past: Sequence[Metrics],
    ):
        """Nothing is asked before the first call.

        Args:
            versions: The run's versions.
            learner: Holds the roles that score completions; every check overwrites the proximal role.
            config: The run's configuration.
            records: Training questions, for probes.
            server_dtype: The dtype that the server computes in, e.g. ``float32``.
            past: Metrics of the run's earlier steps.
        """
        self.metrics: Metrics = {}
        """Metrics of the newest version's proofs under ``sync/`` names; if there are several, the worst values."""
        self._versions, self._learner = versions, learner
        self._arms: tuple[ArmSpec, ...] = config.rollout.arms
        self._prompt_format = config.rollout.prompt_format
        self._num_tokens = min(_PROBE_TOKENS, config.rollout.max_tokens)
        self._num_questions = max(_FEWEST_QUESTIONS, -(-_PROBE_COMPLETIONS // len(self._arms)))
        """Questions of a probe."""
        self._questions = [record.question for record in records]
        server = versions.requests.server
        self._pool = server if isinstance(server, ServerPool) else None
        self._check = SyncCheck(config, server_dtype=server_dtype, past=past)
        self._proven: set[tuple[int, Origin]] = set()

    def prove_rollouts(self, batch: RolloutBatch, mini_batches: Sequence[MiniBatch]) -> None:
        """Prove a version by the rollouts that are about to train, or by a probe if none of them trains.

        Args:
            batch: The rollouts.
            mini_batches: Their experience.

        Raises:
            SyncError: The server does not serve what was pushed, or did not sample as it was asked to.
            OutOfMemoryError: The check does not fit into the GPU's memory, even with passes of half the size.
        """
        published = self._versions.earlier(batch.version)
        if not mini_batches:
            return self.prove(published)
        origins = by_origin(batch.groups)
        for origin, groups in origins.items():
            self._require_listed(published, origin)
            self._require_sampled_as_asked(batch.version, [group.group for group in groups])
            is_whole = list(origins) == [THE_SERVER]
            its_own = None if is_whole else {s for group in groups for s in group.samples}
            samples, pushed = scored_samples(mini_batches, its_own, max_tokens=_SCORED_TOKENS)
            # Experience leaves out groups that teach nothing; these may be all the groups of one of several origins.
            if samples or is_whole:
                self._prove(published, samples, pushed=pushed, origin=origin)

    def prove(self, published: Published) -> None:
        """Prove a version by a probe, unless its rollouts have.

        Each of several servers or replicas gets a probe of its own; a server that leaves meanwhile needs no proof.

        Raises:
            SyncError, OutOfMemoryError: As in `prove_rollouts`.
        """
        for origin in self._origins():
            if (published.version, origin) in self._proven:
                continue
            try:
                self._require_listed(published, origin)
                samples = self._probe(published.version, 0, self._num_questions, origin)
                self._prove(published, samples, origin=origin)
            except ServerUnreachableError as error:
                if origin.server is None:
                    raise
                _log.warning('event=not_proven server=%s reason="%s"', origin.server, error)
            except ServerRejectedError as error:
                # A server that was restarted meanwhile may have fewer replicas.
                if error.param != "replica" or origin in self._origins():
                    raise
                return self.prove(published)

    def _prove(
        self,
        published: Published,
        samples: Sequence[Sample],
        *,
        origin: Origin,
        pushed: Sequence[Tensor] | None = None,
    ) -> None:
        version = published.version
        first, count = self._num_questions, _TIMES_MORE * self._num_questions

        def outcome_of(token_budget: int) -> SyncOutcome:
            return self._check.prove(
                samples,
                ComputedExplanations(
                    roles=self._learner.roles,
                    published=published,
                    token_budget=token_budget,
                    earlier=partial(self._earlier, version),
                ),
                pushed=pushed,
                ask_more=lambda: self._probe(version, first, count, origin),
                origin=origin,
            )

        try:
            # Steps keep their size: recomputing them is exact only with the micro-batches that the journal names.
            outcome, _ = halved_if_out_of_memory(
                outcome_of, min(_TOKEN_BUDGET, self._learner.token_budget)
            )
        except SyncError as error:
            if origin == THE_SERVER:
                raise
            raise SyncError(f"{origin.label}: {error}") from None
        worst = outcome.metrics
        if self.metrics.get("sync/version") == version:
            worst = {key: max(value, self.metrics.get(key, value)) for key, value in worst.items()}
        self.metrics = {**worst, **({} if self._pool is None else self._pool.metrics)}
        self._proven.add((version, origin))

    def _origins(self) -> list[Origin]:
        if self._pool is not None:
            return self._pool.origins
        requests = self._versions.requests
        return replicas_of(THE_SERVER, requests.call(requests.server.status).num_replicas)

    def _earlier(self, version: int) -> Iterator[Published]:
        return map(self._versions.earlier, self._versions.adapters.before(version))

    def _only(self, origin: Origin) -> PinnedServer | None:
        """The one of several servers that has to answer; None if there is only one server."""
        return None if self._pool is None else self._pool.only(origin)

    def _require_listed(self, published: Published, origin: Origin) -> None:
        requests, version = self._versions.requests, published.version
        try:
            server = self._only(origin)
            ask = self._versions.info if server is None else server.adapter
            held = requests.call(ask, version)
        except ServerUnreachableError:
            if origin.server is None:
                raise
            # The server acknowledged the digest when it got the version, and cannot be asked any more.
            return
        if held.sha256 != published.sha256 or held.active < published.activated:
            state = "active" if held.active else "not active"
            raise SyncError(
                f"version {version} fails the weight-sync check: the server lists it as "
                f"{state} with digest {held.sha256}; pushed was {published.sha256}"
            )

    def _require_sampled_as_asked(self, version: int, groups: Sequence[ArmGroup]) -> None:
        asked = {arm.name: (arm.temperature, arm.top_p) for arm in self._arms}
        for arm in (arm for group in groups for arm in group.arms):
            temperature, top_p = asked[arm.arm]
            if (arm.temperature, arm.top_p) != (temperature, top_p):
                raise SyncError(
                    f"version {version} fails the weight-sync check: arm {arm.arm} was asked "
                    f"at temperature {temperature:g} and top_p {top_p:g}, and sampled at "
                    f"{arm.temperature:g} and {arm.top_p:g}"
                )

    def _probe(self, version: int, first: int, num_questions: int, origin: Origin) -> list[Sample]:
        """The beginnings of all arms' answers to some training questions."""
        server = self._only(origin)
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
                replica=origin.replica,
                priority=Priority.AD_HOC,
            )
            asked.append(self._versions.requests.start(self._versions.group, request, server))
        groups = [future.result()[0] for future in asked]
        self._require_sampled_as_asked(version, groups)
        return samples_of(groups)
