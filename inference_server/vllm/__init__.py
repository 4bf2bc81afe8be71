"""The vLLM engine behind the server's own routes, and the patches of vLLM that it needs."""
