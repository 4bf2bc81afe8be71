"""How the trainer reaches the server. The server's own settings are `ServeConfig`, section ``serve``."""

import os
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from inference_server.wire.settings.model import SettingsModel
from inference_server.wire.settings.serve import ApiKey


def _is_address(url: str) -> str:
    """Refuse a URL that no request can be sent to, or with a secret, which would be kept in config.toml and shown."""
    if any(mark in url for mark in "@?#"):
        raise ValueError(
            "must be scheme, host, port and path alone, without a user name, a password, a query or a "
            "fragment; give the key in REGIME_W_API_KEY"
        )
    parts = urlsplit(url)  # Raises ValueError if the host's brackets do not match.
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        raise ValueError("must be an address such as http://127.0.0.1:8000")
    _ = parts.port  # Raises ValueError if it is not a port.
    return url


_DEFAULT_URL = "http://127.0.0.1:8000"
_MAX_SERVERS = 64

PATIENCE_S = 4.0
"""How long a command at a terminal retries a server that cannot be reached."""


_Address = Annotated[str, AfterValidator(_is_address)]


class ServerConfig(SettingsModel):
    """How to reach the inference server."""

    url: _Address = _DEFAULT_URL
    """Base URL of the server, without user name and password; use api_key instead."""
    urls: Annotated[tuple[_Address, ...], Field(max_length=_MAX_SERVERS)] = ()
    """Base URLs of several servers of the same model, in place of url. `train` asks each of them for a part of
    every step's groups, and goes on without those that are away. Other commands ask the first one."""
    api_key: ApiKey | None = Field(
        validate_default=True,
        default_factory=lambda: (
            SecretStr(os.environ["REGIME_W_API_KEY"])
            if os.environ.get("REGIME_W_API_KEY")
            else None
        ),
    )
    """Sent as a bearer token; from REGIME_W_API_KEY by default."""
    request_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Longest wait without progress, in seconds; then the request is retried. In a request for arms, this is the time
    from one line of the answer to the next (a server that still generates sends one every few seconds). In all other
    requests, it is the time for the whole answer."""
    give_up_after_s: Annotated[float, Field(ge=0)] = 600.0
    """How long requests are retried, in seconds, if the server cannot be reached, fails, is full,
    restarts or has lost the adapters that were pushed to it. Then the trainer writes a checkpoint and exits with
    code 3."""
    push_by_path: bool = False
    """Send the server the path of an adapter instead of uploading it; needs a volume that both see under
    one path, and the server's --adapter-root."""

    @model_validator(mode="after")
    def _url_or_urls(self) -> Self:
        if not self.urls:
            return self
        if len({url.rstrip("/") for url in self.urls}) < len(self.urls):
            raise ValueError("urls names a server twice; name each once")
        if self.url not in (_DEFAULT_URL, self.urls[0]):
            raise ValueError("url and urls are both given; give one of the two")
        # Commands that ask only one server ask the first one.
        object.__setattr__(self, "url", self.urls[0])
        return self

    def for_terminal(self) -> Self:
        """These settings for a command at a terminal, which gives up on an unreachable server after seconds."""
        patience_s = min(self.give_up_after_s, PATIENCE_S)
        return self.model_copy(update={"give_up_after_s": patience_s})
