"""`python -m trainer` with phases in CPU seconds of its own process, so that other work on the machine counts for little.

python -m benchmarks.scaling.cpu_clock train --config deploy/configs/demo.toml …
"""

import time
from types import SimpleNamespace

from trainer.cli import main
from trainer.console import timing

if __name__ == "__main__":
    # Of `timing` alone; everything else waits by the wall's clock.
    vars(timing)["time"] = SimpleNamespace(monotonic=time.process_time)
    main()
