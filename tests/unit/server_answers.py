"""What a stand-in server says of itself and of a version; a test names the fields that it is about."""

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.schemas import Limits, ServerStatus, adapter_name

LIMITS = Limits(
    max_model_len_tokens=4096,
    max_lora_rank=64,
    max_groups_in_flight=64,
    max_questions=64,
    max_samples_per_arm=8,
    max_completions=8192,
    max_adapter_bytes=2**30,
    max_body_bytes=2**25,
    max_loaded_versions=8,
    max_request_s=900.0,
)


def limits_with(**changes: object) -> Limits:
    return LIMITS.model_validate(LIMITS.model_dump() | changes)


def status_with(**changes: object) -> ServerStatus:
    """A server that has just started, without an adapter, but for ``changes``."""
    fields: dict[str, object] = {
        "boot_id": "b",
        "base_model": "m",
        "base_dtype": "float32",
        "has_chat_template": False,
        "active_version": None,
        "next_version": 0,
        "versions": [],
        "groups_in_flight": 0,
        "requests_in_flight": 0,
        "limits": LIMITS,
    }
    return ServerStatus.model_validate(fields | changes)


def adapter_with(version: int, **changes: object) -> AdapterInfo:
    """An adapter that is held, but neither active nor in use, but for ``changes``."""
    fields: dict[str, object] = {
        "version": version,
        "name": adapter_name(version),
        "sha256": "0" * 64,
        "rank": 4,
        "size_bytes": 1,
        "active": False,
        "num_leases": 0,
        "created_at": 0.0,
    }
    return AdapterInfo.model_validate(fields | changes)
