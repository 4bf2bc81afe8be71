"""Adapters as they are stored and sent: the part of their configuration that is applied, and how requests name them."""
