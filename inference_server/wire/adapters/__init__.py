"""Adapters as they are stored and sent: what of their configuration is applied, and the request that names one."""
