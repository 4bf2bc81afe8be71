"""The parts of one running server, put together."""

import asyncio
import uuid
from dataclasses import dataclass
from typing import Self

from inference_server.adapter_files import AdapterFolder
from inference_server.adapters import AdapterRegistry
from inference_server.engine import Engine
from inference_server.errors import engine_unavailable
from inference_server.generation import ArmsGenerator
from inference_server.schemas import Limits, ServerStatus
from inference_server.settings import Settings

# The engine answers between two of its steps; on a CPU a step with long prompts takes seconds.
_ENGINE_ANSWERS_WITHIN_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """What the routes work with."""

    settings: Settings
    boot_id: str
    engine: Engine
    folder: AdapterFolder
    adapters: AdapterRegistry
    generator: ArmsGenerator

    @classmethod
    def start(cls, engine: Engine, settings: Settings) -> Self:
        """Puts a service around a running engine.

        Args:
            engine: Without adapters.
            settings: With ``state_dir`` set, to a folder that is this server's alone.
        """
        if settings.state_dir is None:
            raise ValueError("settings.state_dir must be set")
        boot_id = uuid.uuid4().hex
        folder = AdapterFolder(settings.state_dir)
        adapters = AdapterRegistry(engine, folder, settings.max_loaded_versions)
        return cls(
            settings=settings,
            boot_id=boot_id,
            engine=engine,
            folder=folder,
            adapters=adapters,
            generator=ArmsGenerator(engine, adapters, settings, boot_id),
        )

    async def status(self) -> ServerStatus:
        """State of the server; asks the engine, so that a dead one is noticed.

        Raises:
            ApiError: 503 where the engine does not answer.
        """
        try:
            async with asyncio.timeout(_ENGINE_ANSWERS_WITHIN_S):
                await self.engine.loaded_ids()
        except TimeoutError as error:
            raise engine_unavailable(
                f"the engine did not answer within {_ENGINE_ANSWERS_WITHIN_S:g} s"
            ) from error
        adapters, traits = self.adapters.list(), self.engine.traits
        return ServerStatus(
            boot_id=self.boot_id,
            base_model=traits.base_model,
            base_dtype=traits.lora_dtype,
            active_version=adapters.active_version,
            next_version=self.adapters.next_version,
            versions=adapters.adapters,
            groups_in_flight=self.generator.num_groups_in_flight,
            limits=Limits(
                max_model_len_tokens=traits.max_model_len_tokens,
                max_lora_rank=traits.max_lora_rank,
                max_groups_in_flight=self.settings.max_groups_in_flight,
                max_questions=self.settings.max_questions,
                max_samples_per_arm=self.settings.max_samples_per_arm,
                max_adapter_bytes=self.settings.max_adapter_bytes,
                max_loaded_versions=self.settings.max_loaded_versions,
            ),
        )
