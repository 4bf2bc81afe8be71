"""What the server gets on machines with and without a GPU: memory, batches, flags."""
