"""What server and trainer share. The trainer imports nothing else of the server.

Loads neither torch nor vllm.
"""
