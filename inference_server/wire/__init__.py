"""What server and trainer share. The trainer imports nothing else from the server.

Loads neither torch nor vllm.
"""
