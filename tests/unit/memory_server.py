"""An inference server in memory, for whole runs of the training loop: real logprobs, made-up tokens."""

import copy
import hashlib
import random
from dataclasses import dataclass, field
from pathlib import Path

import torch

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.schemas import (
    ADAPTER_WEIGHTS_FILE,
    ArmCompletion,
    ArmGroup,
    ArmsRequest,
    ArmsResponse,
    FinishReason,
    Question,
    ServerStatus,
    Usage,
)
from regime_w import ArmSpec
from tests.unit.server_answers import adapter_with, limits_with, status_with
from tests.unit.server_stub import ServerStub
from trainer.client.protocol import GreedyPrompt, TextCompletion
from trainer.errors import ConflictError
from trainer.model.adapter import AdapterState, read_adapter
from trainer.model.batches.batch import micro_batches
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role

NUM_TOKENS = 5
VOCABULARY = 200


@dataclass(kw_only=True)
class ServerState:
    """What a restarted server would still know."""

    digests: dict[int, str] = field(default_factory=dict)
    weights: dict[int, AdapterState] = field(default_factory=dict)
    active: int | None = None


class MemoryServer(ServerStub):
    """An `InferenceServer` that gives the same answer to the same request of the same version."""

    def __init__(self, roles: PolicyRoles) -> None:
        """``roles`` compute the logprobs of what is generated, on the thread of the requests."""
        self._roles = roles
        self.state = ServerState()
        self.asked: list[tuple[str, int]] = []
        """(question, version) of every rollout."""

    def copy_of_state(self) -> ServerState:
        return copy.copy(
            ServerState(
                digests=dict(self.state.digests),
                weights=dict(self.state.weights),
                active=self.state.active,
            )
        )

    async def status(self) -> ServerStatus:
        return status_with(
            has_chat_template=True,
            active_version=self.state.active,
            next_version=max(self.state.digests, default=-1) + 1,
            limits=limits_with(max_model_len_tokens=256),
        )

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        sha256 = hashlib.sha256((folder / ADAPTER_WEIGHTS_FILE).read_bytes()).hexdigest()
        if self.state.digests.setdefault(version, sha256) != sha256:
            raise ConflictError(409, "another adapter")
        self.state.weights[version] = read_adapter(folder)
        if activate:
            self.state.active = version
        return await self.adapter(version)

    async def adapter(self, version: int) -> AdapterInfo:
        return adapter_with(
            version, sha256=self.state.digests[version], active=self.state.active == version
        )

    async def activate_adapter(self, version: int) -> AdapterInfo:
        self.state.active = version
        return await self.adapter(version)

    async def delete_adapter(self, version: int) -> None:
        del self.state.weights[version]

    async def complete(
        self, version: int | None, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        return [TextCompletion(text="#### 1", num_tokens=2, truncated=False) for _ in questions]

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        (question,) = request.questions
        assert isinstance(question, Question)
        assert isinstance(request.policy, int)
        if not question.id.startswith("probe-"):
            self.asked.append((question.id, request.policy))
        samples, texts = [], []
        for spec in request.arms or ():
            assert isinstance(spec, ArmSpec)
            rng = random.Random(f"{request.seed}/{question.id}/{spec.name}")
            samples.append(
                Sample(
                    prompt_ids=tuple(rng.choices(range(VOCABULARY), k=4)),
                    completion_ids=tuple(rng.choices(range(VOCABULARY), k=NUM_TOKENS)),
                    sampler_logprobs=(0.0,) * NUM_TOKENS,
                    temperature=spec.temperature,
                    top_p=spec.top_p,
                    reward=0.0,
                    truncated=rng.random() < 0.2,
                    version=request.policy,
                )
            )
            texts.append(f"#### {rng.choice((1, 1, 2))}")
        arms = [
            ArmCompletion(
                arm=spec.name,
                sample=0,
                text=text,
                finish_reason=FinishReason.LENGTH if sample.truncated else FinishReason.STOP,
                temperature=sample.temperature,
                top_p=sample.top_p,
                seed=None,
                prompt_token_ids=list(sample.prompt_ids),
                token_ids=list(sample.completion_ids),
                logprobs=logprobs,
            )
            for spec, sample, text, logprobs in zip(
                [arm for arm in request.arms or () if isinstance(arm, ArmSpec)],
                samples,
                texts,
                self._logprobs(samples, request.policy),
                strict=True,
            )
        ]
        group = ArmGroup(
            id=question.id, question=question.question, policy_version=request.policy, arms=arms
        )
        return ArmsResponse(
            policy_version=request.policy,
            boot_id="b",
            groups=[group],
            usage=Usage(prompt_tokens=0, completion_tokens=0),
        )

    @torch.no_grad()
    def _logprobs(self, samples: list[Sample], version: int) -> list[list[float]]:
        self._roles.load_adapter_state(Role.PROXIMAL, self.state.weights[version])
        (batch,) = micro_batches(
            samples, token_budget=10_000, hidden_size=64, device=torch.device("cpu")
        )
        rows = self._roles.token_logprobs(Role.PROXIMAL, batch).logprobs.tolist()
        by_sample = dict(zip(batch.indices, rows, strict=True))
        return [by_sample[i] for i in range(len(samples))]
