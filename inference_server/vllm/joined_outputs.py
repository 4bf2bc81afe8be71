"""Joins the outputs of several steps, where the front end only needs a completion's end.

vLLM 0.32 sends every token of every request from the engine's process to the front end: a message with three arrays for
its logprobs, which the front end decodes, counts and appends. That takes 30 to 40 µs of the front end's thread for a
token, which limits the whole server, and some of the engine's time too (`benchmarks/README.md`). A request whose output
is read when it is complete (``RequestOutputKind.FINAL_ONLY``) loses nothing if the tokens of 16 steps come as one
message. The first token and the end of a completion are still sent at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from itertools import cycle, groupby
from operator import attrgetter, is_
from typing import Any

import msgspec
import numpy as np
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.outputs import LogprobsLists

MAX_STEPS = 16
"""Outputs of a request that are joined. The counters of tokens in ``/metrics`` lag by as many steps, and never get the
tokens of an aborted request that were not sent."""

_JOINED = {"request_id", "new_token_ids", "new_logprobs"}
_OTHERS = [field for field in msgspec.structs.fields(EngineCoreOutput) if field.name not in _JOINED]
_others = attrgetter(*(field.name for field in _OTHERS))
_UNSET = tuple(field.default for field in _OTHERS)

Update = Callable[..., dict[int, Any]]


def with_joined_outputs(original: Update) -> Update:
    """Wraps the scheduler's method ``original``, which returns what to send to each front end after a step."""

    @wraps(original)
    def update(scheduler: Any, *arguments: Any, **keywords: Any) -> dict[int, Any]:
        if not hasattr(scheduler, "output_joiner"):
            scheduler.output_joiner = OutputJoiner()
        joiner = scheduler.output_joiner
        by_front_end = original(scheduler, *arguments, **keywords)
        for sent in by_front_end.values():
            sent.outputs = joiner.join(sent.outputs, scheduler.requests)
        joiner.forget_all_but(scheduler.requests)
        return by_front_end

    return update


@dataclass(kw_only=True, slots=True)
class _HeldBack:
    """Outputs of a request that have not been sent."""

    outputs: list[EngineCoreOutput]
    max_steps: int
    """How many are sent together."""


class OutputJoiner:
    """Holds back outputs of one scheduler's requests until `MAX_STEPS` of them are there or the request ends."""

    def __init__(self) -> None:
        """Nothing is held back."""
        self._held_back: dict[str, _HeldBack] = {}
        # Requests that begin in the same step are sent in different steps: the front end handles many messages of one
        # step without a pause, in which every stream would stand still.
        self._first_steps = cycle(range(MAX_STEPS, 0, -1))

    def join(
        self, outputs: list[EngineCoreOutput], requests: dict[str, Any]
    ) -> list[EngineCoreOutput]:
        """What to send of a step's outputs to one front end.

        Args:
            outputs: One per request.
            requests: The scheduler's unfinished requests by id.
        """
        to_send = []
        for output in outputs:
            name, can_wait = output.request_id, _can_wait(output, requests.get(output.request_id))
            held = self._held_back.get(name)
            if held is None:
                if not can_wait:
                    to_send.append(output)
                    continue
                held = _HeldBack(outputs=[], max_steps=next(self._first_steps))
                self._held_back[name] = held
            if output.prefill_stats is not None:
                # The first output of a request; what is there is of an aborted one with the same id.
                held.outputs.clear()
            held.outputs.append(output)
            if not can_wait or len(held.outputs) >= held.max_steps:
                to_send += joined(held.outputs)
                held.outputs, held.max_steps = [], MAX_STEPS
        return to_send

    def forget_all_but(self, requests: dict[str, Any]) -> None:
        """Drops what finished and aborted requests left, once all front ends have a step's outputs."""
        for name in self._held_back.keys() - requests.keys():
            del self._held_back[name]


def joined(outputs: list[EngineCoreOutput]) -> list[EngineCoreOutput]:
    """One output with the tokens of consecutive ones of a request, and the other fields of the last.

    It is one per number of logprobs for a token, since this may differ from step to step: it is the largest number
    that a request of the step asked for.
    """
    return [_joined(list(group)) for _, group in groupby(outputs, _num_logprobs)]


def _can_wait(output: EngineCoreOutput, request: Any) -> bool:
    """Whether an output holds only tokens and logprobs, and its request's reader needs no token before the last."""
    sampling = None if request is None else request.sampling_params
    return (
        sampling is not None
        and sampling.output_kind is RequestOutputKind.FINAL_ONLY
        # The front end looks for stop strings, and ends the request at the first one.
        and not sampling.stop
        and all(map(is_, _others(output), _UNSET))
    )


def _num_logprobs(output: EngineCoreOutput) -> int:
    return 0 if output.new_logprobs is None else output.new_logprobs.logprobs.shape[-1]


def _joined(outputs: list[EngineCoreOutput]) -> EngineCoreOutput:
    *_, last = outputs
    if len(outputs) == 1:
        return last
    last.new_token_ids = [token for output in outputs for token in output.new_token_ids]
    if last.new_logprobs is not None:
        rows = zip(*(output.new_logprobs[:3] for output in outputs), strict=True)
        last.new_logprobs = LogprobsLists(*map(np.concatenate, rows))
    return last
