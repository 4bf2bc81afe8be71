"""What an engine is doing while it starts, read from vLLM's log in whichever process writes it."""

import logging
import os
from contextlib import suppress
from pathlib import Path

PHASE_FILE_VARIABLE = "INFERENCE_SERVER_PHASE_FILE"
"""The variable that tells the engine's processes which file to write the phase to."""

FIRST_PHASE = "reading the model's configuration"
PHASES = {
    "Starting to load model": "loading the weights",
    "Loading model from scratch": "loading the weights",
    "Loading weights took": "compiling the model",
    "KV cache size": "warming up, on a GPU with CUDA graphs",
}
"""The phase that begins with a line of vLLM 0.32's log, by words of that line; on a GPU another runner loads the model."""


class _Phases(logging.Handler):
    def __init__(self, path: Path) -> None:
        super().__init__(logging.INFO)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        for words, phase in PHASES.items():
            if words in line:
                with suppress(OSError):
                    self._path.write_text(phase, encoding="utf-8")


def follow() -> None:
    """Writes each phase of this process's engine to the file that the environment names; a second call does nothing."""
    log, path = logging.getLogger("vllm"), os.environ.get(PHASE_FILE_VARIABLE)
    if path and not any(isinstance(handler, _Phases) for handler in log.handlers):
        log.addHandler(_Phases(Path(path)))
