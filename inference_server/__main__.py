"""``python -m inference_server``."""

import sys

from inference_server.launch.launcher import main

# The engine's processes import this module again; only the first one is the server.
if __name__ == "__main__":
    sys.exit(main())
