"""The parts of one running server and how they are assembled."""

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import Self

from prometheus_client import CollectorRegistry

from inference_server.adapters.registry import AdapterRegistry
from inference_server.adapters.storage import AdapterFolder
from inference_server.adapters.versions import LoadedVersions
from inference_server.arms.generator import ArmsGenerator
from inference_server.arms.replicas import Replicas
from inference_server.arms.run import Serving
from inference_server.arms.scores import Scorer
from inference_server.concurrency import SharedCall, gather_or_cancel
from inference_server.engine import Engine, EngineDied, Sampling
from inference_server.errors import EngineUnavailable
from inference_server.metrics import ServerMetrics
from inference_server.settings import Settings
from inference_server.wire.schemas import Limits, ServerStatus

# The engine answers between two steps; on a CPU a step with long prompts takes seconds.
ENGINE_ANSWERS_WITHIN_S = 30.0
_WARM_UP = Sampling(temperature=1.0, top_p=0.9, max_tokens=2, seed=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """Everything that the routes use."""

    settings: Settings
    boot_id: str
    engine: Engine
    adapters: AdapterRegistry
    generator: ArmsGenerator
    metrics: ServerMetrics
    _engine_check: SharedCall = field(default_factory=SharedCall)

    @classmethod
    async def start(cls, engine: Engine, settings: Settings, registry: CollectorRegistry) -> Self:
        """Builds the service around a running engine and restores the adapters in its state folder.

        Args:
            engine: An engine without adapters.
            settings: ``state_dir`` must be set to a folder that no other server uses.
            registry: Where the metrics are registered.
        """
        if settings.state_dir is None:
            raise ValueError("settings.state_dir must be set")
        # The first completion compiles kernels for seconds; do it before the server reports healthy.
        await gather_or_cancel(
            engine.generate([0], _WARM_UP, None, each) for each in range(engine.traits.num_replicas)
        )
        folder = AdapterFolder(settings.state_dir, settings.max_adapter_bytes)
        versions = LoadedVersions(engine, folder, settings.max_loaded_versions)
        adapters = AdapterRegistry(versions, folder, engine.traits)
        await adapters.restore()
        metrics = ServerMetrics(registry)
        metrics.active_version.set_function(
            lambda: -1 if versions.active is None else versions.active
        )
        metrics.versions.set_function(lambda: len(versions))
        metrics.leases.set_function(lambda: versions.num_leases)
        serving = Serving(
            engine=engine,
            versions=versions,
            replicas=Replicas(engine.traits.num_replicas),
            scorer=Scorer(),
            metrics=metrics,
        )
        return cls(
            settings=settings,
            boot_id=uuid.uuid4().hex,
            engine=engine,
            adapters=adapters,
            generator=ArmsGenerator(serving, settings),
            metrics=metrics,
        )

    async def check_engine(self) -> None:
        """Asks the engine's own loop, which detects a dead or hung engine; concurrent callers share one question.

        Raises:
            EngineUnavailable: It is dead or does not answer.
        """
        await self._engine_check.run(self._ask_engine)

    async def _ask_engine(self) -> None:
        try:
            async with asyncio.timeout(ENGINE_ANSWERS_WITHIN_S):
                await self.engine.loaded_ids()
        except TimeoutError as error:
            raise EngineUnavailable(
                f"the engine did not answer within {ENGINE_ANSWERS_WITHIN_S:g} s"
            ) from error
        except EngineDied as error:
            raise EngineUnavailable(f"the engine is dead: {error}") from error

    async def status(self) -> ServerStatus:
        """State and limits of the server.

        Raises:
            EngineUnavailable: The engine is dead or does not answer.
        """
        await self.check_engine()
        adapters, traits, settings = self.adapters.list(), self.engine.traits, self.settings
        return ServerStatus(
            boot_id=self.boot_id,
            base_model=traits.base_model,
            base_fingerprint=traits.base_fingerprint,
            base_dtype=traits.lora_dtype,
            has_chat_template=traits.has_chat_template,
            num_replicas=traits.num_replicas,
            active_version=adapters.active_version,
            next_version=self.adapters.next_version,
            versions=adapters.adapters,
            groups_in_flight=self.generator.num_groups_in_flight,
            requests_in_flight=self.engine.num_requests(),
            limits=Limits(
                max_model_len_tokens=traits.max_model_len_tokens,
                max_lora_rank=traits.max_lora_rank,
                max_groups_in_flight=settings.max_groups_in_flight,
                max_questions=settings.max_questions,
                max_samples_per_arm=settings.max_samples_per_arm,
                max_completions=settings.max_completions,
                max_adapter_bytes=settings.max_adapter_bytes,
                max_body_bytes=settings.max_body_bytes,
                max_loaded_versions=settings.max_loaded_versions,
                max_request_s=settings.max_request_s,
            ),
        )
