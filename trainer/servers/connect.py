"""Makes the client of a configuration's server, or of its servers as one."""

from trainer.client.arms_client import ArmsClient
from trainer.client.protocol import InferenceServer
from trainer.config.sections import ServerConfig
from trainer.servers.pool import ServerPool

_PATIENCE_S = 1.0
"""How long one of several servers may fail before the others are asked instead; short, since it comes back easily."""
_FULL_FOR_S = 60.0
"""The same for a server that takes no more requests (429); longer, since its work in flight would be done twice."""


def connection(config: ServerConfig) -> InferenceServer:
    """A client of the server, or of the pool; nothing is sent before its block is entered."""
    if len(config.urls) < 2:
        return ArmsClient(config)
    patience_s = min(config.give_up_after_s, _PATIENCE_S)
    clients = {
        url: ArmsClient(
            config.model_copy(update={"url": url, "urls": (), "give_up_after_s": patience_s}),
            logs_outages=False,
            full_for_s=min(config.give_up_after_s, _FULL_FOR_S),
        )
        for url in config.urls
    }
    return ServerPool(clients, give_up_after_s=config.give_up_after_s)
