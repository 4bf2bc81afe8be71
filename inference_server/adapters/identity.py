"""What tells two uploads of a version apart."""

import hashlib
from dataclasses import dataclass
from typing import Self

from inference_server.wire.adapters.adapter_config import AdapterConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterIdentity:
    """Two uploads of a version are the same adapter if their identities are equal.

    One is kept for every version that a server ever had, so it has digests only.
    """

    sha256: str
    """Of the weights file."""
    config_sha256: str
    """Of what counts in the configuration."""
    rank: int

    @classmethod
    def of(cls, sha256: str, config: AdapterConfig) -> Self:
        """The identity of an adapter whose weights file has a digest."""
        config_sha256 = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
        return cls(sha256=sha256, config_sha256=config_sha256, rank=config.r)
