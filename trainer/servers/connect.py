"""The server of a configuration, or its servers as one."""

from trainer.client.arms_client import ArmsClient
from trainer.client.protocol import InferenceServer
from trainer.config.sections import ServerConfig
from trainer.servers.pool import ServerPool

_PATIENCE_S = 1.0
"""After which one of several servers that fails is left for the others, which is cheap: it comes back as easily."""
_FULL_FOR_S = 60.0
"""After which it is left where it takes no more requests (429): it works, so what it does need not be done elsewhere."""


def connection(config: ServerConfig) -> InferenceServer:
    """Nothing is sent before the connection is entered."""
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
