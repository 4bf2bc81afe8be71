"""What a machine without and one with a GPU give the server: memory, batches, flags."""
