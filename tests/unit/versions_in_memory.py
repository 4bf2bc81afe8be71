"""`Versions` for a stand-in server that is never restarted."""

from typing import cast

from anyio.from_thread import BlockingPortal

from inference_server.wire.schemas import ServerStatus
from tests.unit.server_answers import status_with
from trainer.client.protocol import InferenceServer
from trainer.client.request_thread import RequestThread
from trainer.config.sections import ServerConfig, TrainConfig
from trainer.online.versions import Versions
from trainer.run_state.run_adapters import RunAdapters

STATUS = status_with()


def versions_for(
    server: InferenceServer,
    portal: BlockingPortal | None = None,
    adapters: RunAdapters | None = None,
    *,
    config: TrainConfig | None = None,
    found: ServerStatus = STATUS,
    vocab_size: int = 10**6,
) -> Versions:
    """The versions of a run.

    Args:
        server: Stands in for the server.
        portal: The thread of its requests; None if a test only awaits coroutines.
        adapters: The run's adapters on disk; None if nothing is pushed.
        config: The run's configuration; by default one that gives up after a minute.
        found: The server as the run found it.
        vocab_size: How many tokens the base model has.
    """
    return Versions(
        RequestThread(server, cast(BlockingPortal, portal)),
        cast(RunAdapters, adapters),
        config or TrainConfig(server=ServerConfig(give_up_after_s=60.0)),
        found=found,
        vocab_size=vocab_size,
    )
