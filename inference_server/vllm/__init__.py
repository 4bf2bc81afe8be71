"""The vLLM engine behind the server's own routes, and the patches of vLLM that it needs.

What it uses of ``AsyncLLM`` that is not public, to be looked at when vLLM is upgraded (`patches` names what it replaces):

- `engine`, `guarded_client`: ``output_processor``, which sees the requests of every route
- `engine`, `guarded_client`: ``engine_core``, the client of the cores, for calls to every replica and for what is sent
- `metric_series`: ``logger_manager``
- `inference_server.launch.watchdog`: ``engine_core.resources.engine_manager``
"""
