"""`python -m trainer` with phases timed in CPU seconds of its process, so that other work on the machine hardly counts.

python -m benchmarks.scaling.cpu_clock train --config deploy/configs/demo.toml …
"""

import time
from types import SimpleNamespace

from trainer.cli import main
from trainer.console import timing

if __name__ == "__main__":
    # Only in `timing`; everything else keeps to wall-clock time.
    vars(timing)["time"] = SimpleNamespace(monotonic=time.process_time)
    main()
