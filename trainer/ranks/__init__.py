"""Several processes that learn one step together, each with a device of its own."""
