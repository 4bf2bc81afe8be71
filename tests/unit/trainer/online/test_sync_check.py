"""The weight-sync check against a server that samples with real weights, not always the right ones."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from anyio.from_thread import BlockingPortal, start_blocking_portal

from inference_server.wire.schemas import (
    AdapterInfo,
    ArmCompletion,
    ArmGroup,
    ArmsRequest,
    ArmsResponse,
    FinishReason,
    Priority,
    Usage,
)
from regime_w import ArmSpec, build_all_arms
from tests.unit.server_stub import ServerStub
from tests.unit.versions_in_memory import STATUS, versions_for
from trainer.config.sections import PolicyConfig, PPOConfig, RolloutConfig, TrainConfig
from trainer.errors import SyncError
from trainer.model.adapter import read_adapter
from trainer.model.batch import Sample, micro_batches
from trainer.model.roles import PolicyRoles, Role
from trainer.online.sync_check import Published, probe_arms
from trainer.online.versions import Versions

MakeRoles = Callable[..., PolicyRoles]
ARMS = (
    ArmSpec(name="cool", system_prompt="a", temperature=0.5, top_p=0.9),
    ArmSpec(name="warm", system_prompt="a", temperature=1.0, top_p=1.0),
)


class FakeServer(ServerStub):
    """Answers with fixed tokens and their logprobs under whatever adapter it serves."""

    def __init__(self, roles: PolicyRoles) -> None:
        self.roles = roles
        self.held: dict[int, Published] = {}
        self.serves: Callable[[int], int] = lambda asked: asked
        self.noise: list[float] = [0.0]
        """Added to the logprobs of each completion, over and over."""
        self.info: dict[str, Any] = {}
        self.requests: list[ArmsRequest] = []

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        self.requests.append(request)
        assert isinstance(request.policy, int)
        served = self.held[self.serves(request.policy)]
        arms = []
        for i, arm in enumerate(request.arms or ()):
            assert isinstance(arm, ArmSpec)
            sample = Sample(
                prompt_ids=(5, 6, 7),
                completion_ids=tuple(range(20 + i, 20 + i + request.max_tokens)),
                sampler_logprobs=(0.0,) * request.max_tokens,
                temperature=arm.temperature,
                top_p=arm.top_p,
                reward=0.0,
                truncated=True,
                version=request.policy,
            )
            self.roles.load_adapter_state(Role.PROXIMAL, read_adapter(served.folder))
            with torch.no_grad():
                (batch,) = micro_batches(
                    [sample], token_budget=1, hidden_size=64, device=torch.device("cpu")
                )
                (logprobs,) = self.roles.token_logprobs(Role.PROXIMAL, batch).logprobs.tolist()
            noise = self.noise * len(logprobs)
            arms.append(
                ArmCompletion(
                    arm=arm.name,
                    sample=0,
                    text="",
                    finish_reason=FinishReason.LENGTH,
                    temperature=arm.temperature,
                    top_p=arm.top_p,
                    seed=None,
                    prompt_token_ids=list(sample.prompt_ids),
                    token_ids=list(sample.completion_ids),
                    logprobs=[a + b for a, b in zip(logprobs, noise, strict=False)],
                )
            )
        return ArmsResponse(
            policy_version=request.policy,
            boot_id="b",
            groups=[ArmGroup(id="probe", question="q", policy_version=request.policy, arms=arms)],
            usage=Usage(prompt_tokens=0, completion_tokens=0),
        )

    async def adapter(self, version: int) -> AdapterInfo:
        info = AdapterInfo(
            version=version,
            name="",
            sha256=self.held[version].sha256,
            rank=4,
            size_bytes=1,
            active=True,
            num_leases=0,
            created_at=0.0,
        )
        return info.model_copy(update=self.info)


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def roles(make_roles: MakeRoles) -> PolicyRoles:
    return make_roles(seed=0)


@pytest.fixture
def server(make_roles: MakeRoles) -> FakeServer:
    return FakeServer(make_roles(seed=1))


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


def make_versions(
    server: FakeServer, portal: BlockingPortal, *, dtype: str = "float32", **ppo: float
) -> Versions:
    config = TrainConfig(
        policy=PolicyConfig(),
        rollout=RolloutConfig(arms=ARMS),
        ppo=PPOConfig.model_validate(ppo),
    )
    found = STATUS.model_copy(update={"base_dtype": dtype})
    return versions_for(server, portal, config=config, found=found)


def test_an_honest_server_passes_version_after_version(
    server: FakeServer, roles: PolicyRoles, portal: BlockingPortal, tmp_path: Path
) -> None:
    versions = make_versions(server, portal)
    for version in (3, 4, 5):
        versions.start_check(push(server, roles, tmp_path, version))
        versions.require(version, roles)
        assert versions.check_metrics["sync/version"] == version
        assert versions.check_metrics["sync/mismatch"] < 1e-5
        move(roles, by=0.01)
    request = server.requests[0]
    assert (request.policy, request.arms, request.max_tokens) == (3, list(ARMS), 8)
    assert request.priority is Priority.AD_HOC
    assert request.seed is not None


@pytest.mark.parametrize("by", [0.0, 1e-4])
def test_noise_that_hides_the_difference_of_two_versions_is_no_proof_against_the_newer(
    by: float, server: FakeServer, roles: PolicyRoles, portal: BlockingPortal, tmp_path: Path
) -> None:
    versions = make_versions(server, portal, dtype="bfloat16")
    server.noise = [0.01, -0.02, 0.015]
    for version in (3, 4):
        versions.start_check(push(server, roles, tmp_path, version))
        versions.require(version, roles)
        move(roles, by=by)


def test_versions_that_are_proven_are_not_proven_again(
    server: FakeServer, roles: PolicyRoles, portal: BlockingPortal, tmp_path: Path
) -> None:
    versions = make_versions(server, portal)
    versions.start_check(push(server, roles, tmp_path, 3))
    versions.require(3, roles)
    versions.start_check(push(server, roles, tmp_path, 4))
    server.held.clear()
    versions.require(3, roles)  # Training on what version 3 generated, while 4 is being asked.
    assert versions.check_metrics["sync/version"] == 3


@pytest.mark.parametrize("by", [0.1, 1e-3, 3e-5])
def test_the_version_before_is_caught_however_little_they_differ(
    by: float, server: FakeServer, roles: PolicyRoles, portal: BlockingPortal, tmp_path: Path
) -> None:
    versions = make_versions(server, portal)
    versions.start_check(push(server, roles, tmp_path, 3))
    versions.require(3, roles)
    move(roles, by=by)
    server.serves = lambda asked: 3
    versions.start_check(push(server, roles, tmp_path, 4))
    with pytest.raises(SyncError, match=r"^version 4 fails.*fit version 3: ") as caught:
        versions.require(4, roles)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "max_mismatch", "noise", "passes"),
    [
        ("float32", None, 0.004, True),
        ("float32", None, 0.006, False),
        ("bfloat16", None, 0.04, True),
        ("bfloat16", None, 0.06, False),
        ("float32", 0.1, 0.09, True),
        ("bfloat16", 0.01, 0.011, False),
        ("float32", None, float("nan"), False),
    ],
)
def test_the_threshold_fits_the_dtype_unless_it_is_given(
    dtype: str,
    max_mismatch: float | None,
    noise: float,
    passes: bool,
    server: FakeServer,
    roles: PolicyRoles,
    portal: BlockingPortal,
    tmp_path: Path,
) -> None:
    options = {} if max_mismatch is None else {"max_logprob_mismatch": max_mismatch}
    versions = make_versions(server, portal, dtype=dtype, **options)
    server.noise = [noise, -noise]
    versions.start_check(push(server, roles, tmp_path, 3))
    if passes:
        versions.require(3, roles)
        assert versions.check_metrics["sync/mismatch"] == pytest.approx(noise, abs=1e-5)
        versions.check.require_rollouts(3, noise)
    else:
        with pytest.raises(SyncError, match="another base model or dtype"):
            versions.require(3, roles)
        with pytest.raises(SyncError, match="rollouts of version 3"):
            versions.check.require_rollouts(3, noise)


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
    versions = make_versions(server, portal)
    server.info = info
    versions.start_check(push(server, roles, tmp_path, 3))
    with pytest.raises(SyncError, match=complaint):
        versions.require(3, roles)


def test_a_probe_has_the_coolest_and_the_warmest_arm_of_each_prompt() -> None:
    names = [arm.name for arm in probe_arms(build_all_arms())]
    assert names == ["wolfram_0", "wolfram_3", "maudlin_0", "maudlin_3"]
    assert probe_arms(ARMS[:1]) == list(ARMS[:1])
