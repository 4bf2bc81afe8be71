"""The weight-sync check against a server that samples with real weights, not always the right ones."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from anyio.from_thread import BlockingPortal, start_blocking_portal

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.schemas import (
    ArmCompletion,
    ArmGroup,
    ArmsRequest,
    ArmsResponse,
    FinishReason,
    Priority,
    Question,
    ServerStatus,
    Usage,
)
from regime_w import ArmSpec
from tests.unit.server_answers import adapter_with
from tests.unit.server_stub import ServerStub
from tests.unit.versions_in_memory import STATUS, versions_for
from trainer.config.sections import PolicyConfig, PPOConfig, RolloutConfig, TrainConfig
from trainer.data.sources import Record
from trainer.errors import OutOfMemoryError, ServerRejectedError, SyncError
from trainer.io.metrics_file import Metrics
from trainer.model.adapter import read_adapter
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.online.published import Published
from trainer.online.weight_sync.proofs import Proofs
from trainer.ppo.learner import Learner
from trainer.run_state.run_adapters import RunAdapters

MakeRoles = Callable[..., PolicyRoles]
ARMS = tuple(
    ArmSpec(name=f"arm_{i}", system_prompt="a", temperature=0.4 + i / 5, top_p=0.9 + i % 2 / 10)
    for i in range(8)
)
NUM_TOKENS = 8
RECORDS = [Record(id=str(i), question=f"{i} + 1?", gold="#### 1") for i in range(100)]


class FakeServer(ServerStub):
    """Answers with made-up tokens and their logprobs under whatever adapter it serves."""

    def __init__(self, roles: PolicyRoles) -> None:
        self.roles = roles
        self.held: dict[int, Published] = {}
        self.serves: Callable[[int], int] = lambda asked: asked
        self.serves_on: dict[int | None, int] = {}
        """The version that a replica serves whatever is asked of it."""
        self.noise_on: dict[int | None, float] = {}
        """What a replica adds to every logprob."""
        self.samples_as: Callable[[Sample], Sample] = lambda sample: sample
        self.b_factor = 1.0
        self.answers: Callable[[list[float]], list[float]] = lambda logprobs: logprobs
        """Changes the logprobs of a completion."""
        self.info: dict[str, Any] = {}
        self.requests: list[ArmsRequest] = []
        self.num_replicas = 1
        self.restarts_with: int | None = None
        """Replicas, once one is asked that is then not there."""

    async def status(self) -> ServerStatus:
        return STATUS.model_copy(update={"num_replicas": self.num_replicas})

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        self._require_replica(request.replica or 0)
        self.requests.append(request)
        (question,) = request.questions
        assert isinstance(question, Question)
        assert isinstance(request.policy, int)
        samples = [
            self._sample(question.id, arm, request)
            for arm in request.arms or ()
            if isinstance(arm, ArmSpec)
        ]
        served = self.serves_on.get(request.replica, self.serves(request.policy))
        state = read_adapter(self.held[served].folder)
        scaled = {n: t * self.b_factor if ".lora_B." in n else t for n, t in state.items()}
        self.roles.load_adapter_state(Role.PROXIMAL, scaled)
        found = self.roles.completion_logprobs(
            Role.PROXIMAL, [self.samples_as(sample) for sample in samples], token_budget=9999
        )
        arms = [
            ArmCompletion(
                arm=spec.name,
                sample=0,
                text="",
                finish_reason=FinishReason.LENGTH,
                temperature=sample.temperature,
                top_p=sample.top_p,
                seed=None,
                prompt_token_ids=list(sample.prompt_ids),
                token_ids=list(sample.completion_ids),
                logprobs=self.answers((logprobs - self.noise_on.get(request.replica, 0)).tolist()),
            )
            for spec, sample, logprobs in zip(ARMS, samples, found, strict=True)
        ]
        return ArmsResponse(
            policy_version=request.policy,
            boot_id="b",
            groups=[
                ArmGroup(id=question.id, question="q", policy_version=request.policy, arms=arms)
            ],
            usage=Usage(prompt_tokens=0, completion_tokens=0),
        )

    def _require_replica(self, replica: int) -> None:
        if self.restarts_with is not None and replica >= self.restarts_with:
            self.num_replicas = self.restarts_with
        if replica >= self.num_replicas:
            raise ServerRejectedError(422, f"replica {replica}", "replica")

    def _sample(self, question: str, arm: ArmSpec, request: ArmsRequest) -> Sample:
        prompt, rng = random.Random(question), random.Random(f"{question}/{arm.name}")
        return Sample(
            prompt_ids=tuple(prompt.choices(range(500), k=3)),
            completion_ids=tuple(rng.choices(range(500), k=request.max_tokens)),
            sampler_logprobs=(0.0,) * request.max_tokens,
            temperature=arm.temperature,
            top_p=arm.top_p,
            reward=0.0,
            truncated=True,
            version=None,
        )

    async def adapter(self, version: int) -> AdapterInfo:
        info = adapter_with(version, sha256=self.held[version].sha256, active=True)
        return info.model_copy(update=self.info)


class FakeAdapters:
    """The versions on disk that a test has pushed."""

    def __init__(self, held: dict[int, Published]) -> None:
        self._held = held

    def folder_of(self, version: int) -> Path:
        return self._held[version].folder

    def sha256_of(self, version: int) -> str:
        return self._held[version].sha256

    def before(self, version: int) -> Iterator[int]:
        return (v for v in sorted(self._held, reverse=True) if v < version)


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def roles(make_roles: MakeRoles) -> PolicyRoles:
    return make_roles(seed=0)


@pytest.fixture(scope="module")
def server_roles(make_roles: MakeRoles) -> PolicyRoles:
    return make_roles(seed=1)


@pytest.fixture
def server(server_roles: PolicyRoles) -> FakeServer:
    return FakeServer(server_roles)


def push(server: FakeServer, roles: PolicyRoles, folder: Path, version: int) -> Published:
    path = folder / f"policy-{version:06d}"
    path.mkdir()
    roles.export_policy(path)
    published = Published(version=version, folder=path, sha256=f"{version:064x}")
    server.held[version] = published
    return published


def move(roles: PolicyRoles, by: float) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in roles.adapter_parameters(Role.POLICY):
            parameter.add_(by * torch.randn(parameter.shape))


def make_proofs(
    server: FakeServer,
    roles: PolicyRoles,
    portal: BlockingPortal,
    *,
    dtype: str = "float32",
    past: Sequence[Metrics] = (),
    **ppo: float,
) -> Proofs:
    config = TrainConfig(
        policy=PolicyConfig(),
        rollout=RolloutConfig(arms=ARMS, max_tokens=NUM_TOKENS),
        ppo=PPOConfig.model_validate(ppo),
    )
    adapters = cast(RunAdapters, FakeAdapters(server.held))
    versions = versions_for(server, portal, adapters, config=config)
    learner = Learner(config.ppo, config.run, roles)
    return Proofs(versions, learner, config, RECORDS, server_dtype=dtype, past=past)


def rounding(seed: int, size: float) -> Callable[[list[float]], list[float]]:
    """Makes the noise that bfloat16 adds to logprobs: heavy tails, and now and then another nucleus."""
    rng = random.Random(seed)

    def noisy(logprobs: list[float]) -> list[float]:
        return [
            x
            - math.expm1(x) * size * rng.gauss(0, 1) / math.sqrt(rng.gammavariate(1.5, 1) / 1.5)
            - 0.1 * (rng.random() < 0.01)
            for x in logprobs
        ]

    return noisy


def test_an_honest_server_passes_version_after_version(
    server: FakeServer, roles: PolicyRoles, portal: BlockingPortal, tmp_path: Path
) -> None:
    proofs = make_proofs(server, roles, portal)
    for version in (3, 4, 5):
        proofs.prove(push(server, roles, tmp_path, version))
        found = proofs.metrics
        assert found["sync/version"] == version
        assert found["sync/mismatch"] < 1e-5
        assert found["sync/worst_z"] < 0
        # Every alternative is ruled out.
        assert found["sync/unprovable"] == 0
        move(roles, by=0.01)
    # Several questions, and no alarm that would have asked for more.
    assert len(server.requests) == 3 * 8
    request = server.requests[0]
    assert (request.policy, request.arms, request.max_tokens) == (3, list(ARMS), NUM_TOKENS)
    assert request.priority is Priority.AD_HOC
    assert request.seed is not None


@pytest.mark.parametrize("by", [0.0, 1e-4])
def test_noise_never_stops_an_honest_server(
    by: float, server: FakeServer, roles: PolicyRoles, portal: BlockingPortal, tmp_path: Path
) -> None:
    proofs = make_proofs(server, roles, portal, dtype="bfloat16")
    for version in range(4):
        server.answers = rounding(version, 0.02)
        proofs.prove(push(server, roles, tmp_path, version))
        # The noise may hide the version before, if it differs at all; all else is ruled out.
        assert proofs.metrics["sync/unprovable"] <= (version > 0)
        assert by or proofs.metrics["sync/unprovable"] == (version > 0)
        move(roles, by=by)


def test_versions_that_are_proven_are_not_proven_again(
    server: FakeServer, roles: PolicyRoles, portal: BlockingPortal, tmp_path: Path
) -> None:
    proofs = make_proofs(server, roles, portal)
    published = push(server, roles, tmp_path, 3)
    for _ in range(2):
        proofs.prove(published)
    assert len(server.requests) == 8


@pytest.mark.parametrize(("by", "dtype"), [(0.1, "bfloat16"), (1e-3, "float32"), (3e-5, "float32")])
def test_the_version_before_is_caught_where_the_noise_does_not_hide_it(
    by: float,
    dtype: str,
    server: FakeServer,
    roles: PolicyRoles,
    portal: BlockingPortal,
    tmp_path: Path,
) -> None:
    proofs = make_proofs(server, roles, portal, dtype=dtype)
    if dtype == "bfloat16":
        server.answers = rounding(0, 0.02)
    proofs.prove(push(server, roles, tmp_path, 3))
    move(roles, by=by)
    server.serves = lambda asked: 3
    published = push(server, roles, tmp_path, 4)
    with pytest.raises(SyncError, match=r"^version 4 fails.*fit version 3: .*, z \d") as caught:
        proofs.prove(published)
    message = str(caught.value)
    assert "\n" not in message
    assert "the same command resumes" in message
    # Not before further questions were asked.
    assert [r.questions for r in server.requests[8:16]] != [
        r.questions for r in server.requests[16:24]
    ]
    assert len(server.requests) == 8 + 8 + 16


def test_each_replica_proves_what_it_serves(
    server: FakeServer, roles: PolicyRoles, portal: BlockingPortal, tmp_path: Path
) -> None:
    proofs = make_proofs(server, roles, portal)
    server.num_replicas = 2
    proofs.prove(push(server, roles, tmp_path, 3))
    assert [request.replica for request in server.requests] == [0] * 8 + [1] * 8
    move(roles, by=0.01)
    published = push(server, roles, tmp_path, 4)
    server.serves_on = {1: 3}
    with pytest.raises(SyncError, match=r"^replica 1: version 4 fails.*fit version 3: "):
        proofs.prove(published)


def test_a_server_that_was_restarted_with_fewer_replicas_proves_what_it_has(
    server: FakeServer, roles: PolicyRoles, portal: BlockingPortal, tmp_path: Path
) -> None:
    proofs = make_proofs(server, roles, portal)
    server.num_replicas = 3
    published = push(server, roles, tmp_path, 3)
    server.restarts_with = 2
    proofs.prove(published)
    assert [request.replica for request in server.requests] == [*[0] * 8, *[1] * 8]
    server.num_replicas, server.restarts_with = 3, 1
    move(roles, by=0.01)
    proofs.prove(push(server, roles, tmp_path, 4))
    assert [request.replica for request in server.requests[16:]] == [*[0] * 8, *[None] * 8]


def test_first_versions_are_compared_for_every_replica(
    server: FakeServer, roles: PolicyRoles, portal: BlockingPortal, tmp_path: Path
) -> None:
    proofs = make_proofs(server, roles, portal)
    server.num_replicas = 4
    proofs.prove(push(server, roles, tmp_path, 0))
    found = []
    for version in (1, 2, 3):
        move(roles, by=0.01)
        proofs.prove(push(server, roles, tmp_path, version))
        found.append(len(proofs._check._first))
    # Twelve proofs are of three versions, of which each replica's is compared.
    assert found == [2, 3, 3]
    assert proofs._check._num_before(2) == 2
    assert proofs._check._num_before(3) == 3


def test_metrics_are_of_the_worst_replica(
    server: FakeServer, roles: PolicyRoles, portal: BlockingPortal, tmp_path: Path
) -> None:
    proofs = make_proofs(server, roles, portal)
    server.num_replicas = 2
    server.noise_on = {0: 1e-4}
    published = push(server, roles, tmp_path, 3)
    proofs.prove(published)
    assert proofs.metrics["sync/mismatch"] == pytest.approx(1e-4, rel=1e-2)
    server.noise_on = {}
    move(roles, by=0.01)
    proofs.prove(push(server, roles, tmp_path, 4))
    assert proofs.metrics["sync/mismatch"] < 1e-5


def double_b(server: FakeServer) -> None:
    server.b_factor = 2.0


def leave_the_adapter_out(server: FakeServer) -> None:
    server.b_factor = 0.0


def scale_b_a_little(server: FakeServer) -> None:
    server.b_factor = 1.5


def heat(server: FakeServer) -> None:
    server.samples_as = lambda sample: replace(sample, temperature=2 * sample.temperature)


def warm(server: FakeServer) -> None:
    server.samples_as = lambda sample: replace(sample, temperature=sample.temperature * 2**0.5)


def ignore_top_p(server: FakeServer) -> None:
    server.samples_as = lambda sample: replace(sample, top_p=1.0)


def report_raw_logprobs(server: FakeServer) -> None:
    server.samples_as = lambda sample: replace(sample, top_p=1.0, temperature=1.0)


def shift(server: FakeServer) -> None:
    server.answers = lambda logprobs: [*logprobs[1:], logprobs[0]]


@pytest.mark.parametrize(
    ("dtype", "sabotage", "cause"),
    [
        ("bfloat16", double_b, "lora_B doubled"),
        ("float32", leave_the_adapter_out, "the base without an adapter"),
        ("bfloat16", scale_b_a_little, "lora_B times 1.5"),
        ("bfloat16", heat, "2 times the arms' temperatures"),
        ("float32", warm, "1.4 times the arms' temperatures"),
        ("bfloat16", ignore_top_p, "top_p 1"),
        ("float32", report_raw_logprobs, "temperature 1 and top_p 1 (raw logprobs)"),
        ("bfloat16", shift, "the token after (shifted by one)"),
    ],
)
def test_what_is_served_instead_is_named(
    dtype: str,
    sabotage: Callable[[FakeServer], None],
    cause: str,
    server: FakeServer,
    roles: PolicyRoles,
    portal: BlockingPortal,
    tmp_path: Path,
) -> None:
    proofs = make_proofs(server, roles, portal, dtype=dtype)
    noisy = rounding(0, 0.01) if dtype == "bfloat16" else list[float]
    server.answers = noisy
    proofs.prove(push(server, roles, tmp_path, 3))
    sabotage(server)
    sabotaged = server.answers
    server.answers = lambda logprobs: noisy(sabotaged(logprobs))
    published = push(server, roles, tmp_path, 4)
    with pytest.raises(SyncError) as caught:
        proofs.prove(published)
    assert f"the server's numbers fit {cause}: " in str(caught.value)


@pytest.mark.parametrize("sabotage", [scale_b_a_little, warm])
def test_what_is_a_little_wrong_from_the_first_version_on_is_no_usual_noise(
    sabotage: Callable[[FakeServer], None],
    server: FakeServer,
    roles: PolicyRoles,
    portal: BlockingPortal,
    tmp_path: Path,
) -> None:
    sabotage(server)
    rounded = rounding(0, 0.01)
    server.answers = lambda logprobs: rounded(logprobs)
    published = push(server, roles, tmp_path, 3)
    with pytest.raises(SyncError, match="the server's numbers fit"):
        make_proofs(server, roles, portal, dtype="bfloat16").prove(published)


@pytest.mark.parametrize(
    ("dtype", "past", "limit", "size", "passes"),
    [
        # The first version of a run.
        ("float32", None, None, 0.0008, True),
        ("float32", None, None, 0.003, False),
        ("bfloat16", None, None, 0.06, True),
        ("bfloat16", None, None, 0.15, False),
        # A later one: eight times the usual noise, which may be known from before a resume.
        ("float32", 1e-6, None, 0.0003, True),
        ("float32", 1e-6, None, 0.003, False),
        ("bfloat16", 0.005, None, 0.02, True),
        ("bfloat16", 0.001, None, 0.03, False),
        # The user's own limit is on the mean, and the only one.
        ("float32", 1e-6, 0.1, 0.03, True),
        ("bfloat16", None, 0.01, 0.03, False),
        ("float32", None, None, math.nan, False),
    ],
)
def test_a_mismatch_that_nothing_explains_stops_where_it_is_far_over_the_noise(
    dtype: str,
    past: float | None,
    limit: float | None,
    size: float,
    passes: bool,
    server: FakeServer,
    roles: PolicyRoles,
    portal: BlockingPortal,
    tmp_path: Path,
) -> None:
    options = {} if limit is None else {"max_logprob_mismatch": limit}
    rows = [{"step": 1.0}] + ([] if past is None else [{"sync/noise": past}] * 3)
    proofs = make_proofs(server, roles, portal, dtype=dtype, past=rows, **options)
    signs = random.Random(0)
    server.answers = lambda logprobs: [x + signs.choice((size, -size)) for x in logprobs]
    published = push(server, roles, tmp_path, 3)
    if passes:
        proofs.prove(published)
        assert proofs.metrics["sync/mismatch"] == pytest.approx(size, rel=1e-2)
    else:
        with pytest.raises(SyncError, match="another base model or dtype"):
            proofs.prove(published)
        assert len(server.requests) == 8 + 16


@pytest.mark.parametrize(
    ("info", "complaint"),
    [({"active": False}, "lists it as not active"), ({"sha256": "f" * 64}, "digest ffff")],
)
def test_a_version_that_is_not_listed_as_it_was_pushed_fails(
    info: dict[str, Any],
    complaint: str,
    server: FakeServer,
    roles: PolicyRoles,
    portal: BlockingPortal,
    tmp_path: Path,
) -> None:
    proofs = make_proofs(server, roles, portal)
    server.info = info
    published = push(server, roles, tmp_path, 3)
    with pytest.raises(SyncError, match=complaint):
        proofs.prove(published)


def fails(roles: PolicyRoles, monkeypatch: pytest.MonkeyPatch, *calls: int) -> list[int]:
    """Let passes that score completions, counted from 1, run out of memory; returns the token budgets."""
    real, budgets = roles.logprobs_by_sampling, list[int]()

    def scored(*arguments: Any, token_budget: int) -> list[list[torch.Tensor]]:
        budgets.append(token_budget)
        if len(budgets) in calls:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments, token_budget=token_budget)

    monkeypatch.setattr(roles, "logprobs_by_sampling", scored)
    return budgets


@pytest.mark.parametrize(("of_steps", "of_proofs"), [(64, 64), (16384, 4096)])
def test_a_proof_is_done_in_halves_if_the_gpu_runs_out_of_memory(
    of_steps: int,
    of_proofs: int,
    server: FakeServer,
    roles: PolicyRoles,
    portal: BlockingPortal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proofs = make_proofs(server, roles, portal, token_budget=of_steps)
    published = push(server, roles, tmp_path, 3)
    budgets = fails(roles, monkeypatch, 1)
    proofs.prove(published)
    assert budgets[0] == of_proofs
    assert {*budgets[1:]} == {of_proofs // 2}
    assert proofs.metrics["sync/version"] == 3


def test_a_proof_that_does_not_fit_in_halves_either_names_the_settings(
    server: FakeServer,
    roles: PolicyRoles,
    portal: BlockingPortal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proofs = make_proofs(server, roles, portal)
    published = push(server, roles, tmp_path, 3)
    fails(roles, monkeypatch, 1, 2)
    with pytest.raises(OutOfMemoryError, match=r"ppo\.token_budget"):
        proofs.prove(published)
