"""`Serving` in front of a client that stands in for a server which is never restarted."""

from pathlib import Path
from typing import Any

from inference_server.wire.schemas import Limits, ServerStatus
from trainer.online.serving import Serving

BOOT_ID = "b"
STATUS = ServerStatus(
    boot_id=BOOT_ID,
    base_model="m",
    base_dtype="float32",
    active_version=None,
    next_version=0,
    versions=[],
    groups_in_flight=0,
    requests_in_flight=0,
    limits=Limits.model_validate(dict.fromkeys(Limits.model_fields, 1)),
)


def serving_for(client: Any, folder: Path = Path()) -> Serving:
    return Serving(client, folder, STATUS, give_up_after_s=60.0)
