"""vLLM's offline ``LLM.generate`` in a process of its own, for programs that compare a server with it."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One completion to generate."""

    text: str
    temperature: float
    top_p: float
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The result of one call."""

    num_tokens: int
    """Generated, EOS included."""
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds


class OfflineEngine:
    """A running engine; made by `offline_engine`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        adapter: Path | None,
        logprobs: bool = True,
        ignore_eos: bool = False,
    ) -> Timing:
        """Generates a completion of each prompt in one call; logprobs are included by default, since rollouts need them.

        With ``ignore_eos`` every completion has ``max_tokens`` tokens.
        """
        self._connection.send((list(prompts), max_tokens, adapter, logprobs, ignore_eos))
        answer: Timing = self._connection.recv()
        return answer


@contextmanager
def offline_engine(
    model: Path, engine_arguments: dict[str, Any], environment: Mapping[str, str]
) -> Iterator[OfflineEngine]:
    """An engine that is ready, in a process that ends with the block.

    Args:
        model: Base model.
        engine_arguments: Arguments of ``vllm.LLM``.
        environment: Variables of that process, which override those of this one.
    """
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs, model, engine_arguments, environment)
    )
    process.start()
    theirs.close()
    try:
        if not ours.poll(START_TIMEOUT_S):
            raise TimeoutError("the offline engine did not start")
        ours.recv()
        yield OfflineEngine(ours)
    finally:
        ours.close()
        process.join(30)
        # The engine's own processes are in its process group, and outlive it if it was killed.
        if process.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.join()


def _serve(
    connection: Connection, model: Path, arguments: dict[str, Any], environment: Mapping[str, str]
) -> None:
    os.setsid()
    os.environ |= {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", **environment}
    # vllm takes many seconds to import, and reads its environment variables while it is imported.
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    llm = LLM(model=str(model), disable_log_stats=True, **arguments)
    ids: dict[Path, int] = {}
    connection.send("ready")
    while True:
        try:
            prompts, max_tokens, adapter, logprobs, ignore_eos = connection.recv()
        except EOFError:
            return
        params = [
            SamplingParams(
                temperature=p.temperature,
                top_p=p.top_p,
                seed=p.seed,
                max_tokens=max_tokens,
                ignore_eos=ignore_eos,
                logprobs=0 if logprobs else None,
                flat_logprobs=True,
                # As the server asks: the text is made once, at the end.
                detokenize=False,
            )
            for p in prompts
        ]
        lora = None
        if adapter is not None:
            lora_id = ids.setdefault(adapter, len(ids) + 1)
            lora = LoRARequest(f"offline-{lora_id}", lora_id, str(adapter))
        started = time.perf_counter()
        outputs = llm.generate([p.text for p in prompts], params, lora_request=lora, use_tqdm=False)
        seconds = time.perf_counter() - started
        num_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        connection.send(Timing(num_tokens=num_tokens, seconds=seconds))
