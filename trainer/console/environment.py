"""Variables that must be set before torch and transformers are imported."""

import logging
import os
import sys


def prepare_environment() -> None:
    """Set what the user has not: threads that sleep, and no progress bars in log files."""
    # Waiting threads that spin take the cores of the server beside this process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # TRL lowers it to ERROR where it is unset, for every server that this process then starts.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")
    # PEFT imports bitsandbytes where it is installed, which then complains of a missing optional kernel.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
