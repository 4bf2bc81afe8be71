"""Variables that must be set before torch and transformers are imported."""

import logging
import os
import sys


def prepare_environment() -> None:
    """Set variables that the user has not set: threads sleep while they wait, and libraries show no bars and hints."""
    # Spinning threads would take cores from the server on the same machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Micro-batches differ in size: without this setting the allocator keeps blocks of every size, and runs out of
    # memory while a part of the memory is still free. PyTorch also reads the setting's older name.
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not sys.stderr.isatty():
        # On a terminal the progress of long downloads is shown.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # If it is unset, TRL sets it to ERROR, which would also silence servers started by this process.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")
    # PEFT imports bitsandbytes if it is installed, and bitsandbytes then warns of a missing optional kernel.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
