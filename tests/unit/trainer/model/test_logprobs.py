"""Scores of sampled tokens against all logits in float64, and nuclei against vLLM's own steps."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.threads import torch_threads
from trainer.model import head as head_module
from trainer.model import logprobs as logprobs_module
from trainer.model.batches.batch import SampledTokens
from trainer.model.logprobs import distinct_logprobs
from trainer.model.nuclei import FIRST_GUESS, Nucleus, find_nuclei, nucleus


def kept_ids(kept: Nucleus, row: int) -> list[int]:
    ids = sorted(kept.token_ids[kept.rows == row].tolist())
    assert len(set(ids)) == len(ids)
    return ids


def vllm_kept(logits: list[float], top_p: float) -> set[int]:
    """What vLLM 0.32's apply_top_k_top_p does to one row: sort up, cumulate, drop."""
    order = sorted(range(len(logits)), key=lambda i: logits[i])
    largest = max(logits)
    total = sum(math.exp(x - largest) for x in logits)
    kept, mass = {order[-1]}, 0.0
    for i in order:
        mass += math.exp(logits[i] - largest) / total
        if mass > 1 - top_p:
            kept.add(i)
    return kept


@given(
    rows=st.lists(
        st.tuples(
            # Distinct, and coarse enough that no two orders and no rounding are in question.
            st.lists(st.integers(-80, 80), min_size=6, max_size=6, unique=True),
            st.integers(1, 1000),
            st.integers(0, 5),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_nucleus_keeps_what_vllm_keeps_and_the_sampled_token(
    rows: list[tuple[list[int], int, int]],
) -> None:
    logits = [[x * 0.0937 for x in row] for row, _, _ in rows]
    top_p = [p / 1000 for _, p, _ in rows]
    sampled = [token for _, _, token in rows]

    kept = nucleus(
        torch.tensor(logits, dtype=torch.float64).softmax(dim=-1),
        torch.tensor(top_p, dtype=torch.float64),
        torch.tensor(sampled),
    )

    assert kept.token_ids[: len(rows)].tolist() == sampled
    for i, (row, p, token) in enumerate(zip(logits, top_p, sampled, strict=True)):
        assert kept_ids(kept, i) == sorted(vllm_kept(row, p) | {token})


@pytest.mark.parametrize(
    ("probabilities", "top_p", "kept"),
    [
        ([0.5, 0.3, 0.2], 1.0, [0, 1, 2]),
        ([0.5, 0.3, 0.2], 0.81, [0, 1, 2]),
        ([0.5, 0.3, 0.2], 0.79, [0, 1]),
        ([0.5, 0.3, 0.2], 0.51, [0, 1]),
        ([0.5, 0.3, 0.2], 0.49, [0]),
        ([0.2, 0.5, 0.3], 0.01, [1]),
    ],
)
def test_nucleus_worked_out_by_hand(
    probabilities: list[float], top_p: float, kept: list[int]
) -> None:
    row = torch.tensor([probabilities])
    assert kept_ids(nucleus(row, torch.tensor([top_p]), row.argmax(dim=-1)), 0) == kept
    with_last = sorted({*kept, 2})
    assert kept_ids(nucleus(row, torch.tensor([top_p]), torch.tensor([2])), 0) == with_last


@pytest.mark.parametrize("size", [1, FIRST_GUESS - 1, FIRST_GUESS, FIRST_GUESS + 1, 700, 1000])
def test_a_nucleus_of_any_size_is_found(size: int) -> None:
    torch.manual_seed(size)
    # Falling, so that the size is decided by top_p alone; then shuffled.
    masses = torch.linspace(2, 1, 1000, dtype=torch.float64)
    masses /= masses.sum()
    order = torch.randperm(1000)
    probabilities = torch.empty_like(masses).scatter_(0, order, masses).unsqueeze(0)
    top_p = masses[:size].sum() - masses[size - 1] / 2
    kept = nucleus(probabilities, top_p.unsqueeze(0), order[:1])
    assert kept_ids(kept, 0) == sorted(order[:size].tolist())


# --- scores ------------------------------------------------------------------------------------


def expected_scores(
    hidden: Tensor, head: Tensor, sampled: SampledTokens
) -> tuple[list[float], list[float]]:
    """The logprob and entropy of every token, computed by itself from all of its logits in float64."""
    logprobs, entropies = [], []
    for i, token in enumerate(sampled.token_ids.tolist()):
        logits = (head.double() @ hidden[i].double() / sampled.temperature[i]).tolist()
        kept = vllm_kept(logits, float(sampled.top_p[i])) | {token}
        largest = max(logits)
        masses = {t: math.exp(logits[t] - largest) for t in kept}
        total = sum(masses.values())
        logprobs.append(logits[token] - largest - math.log(total))
        entropies.append(-sum(m / total * math.log(m / total) for m in masses.values() if m))
    return logprobs, entropies


def make_sampled(num_tokens: int, num_restricted: int, vocabulary: int) -> SampledTokens:
    generator = torch.Generator().manual_seed(num_tokens)
    top_p = torch.where(torch.arange(num_tokens) < num_restricted, 0.9, 1.0)
    return SampledTokens(
        states=torch.arange(num_tokens),
        token_ids=torch.randint(vocabulary, (num_tokens,), generator=generator),
        temperature=torch.rand(num_tokens, generator=generator) + 0.2,
        top_p=top_p,
        num_restricted=num_restricted,
    )


class Adapted(nn.Linear):
    """A head that computes more than a product with its weight, so that it must be called."""

    def forward(self, states: Tensor) -> Tensor:
        return 2 * super().forward(states)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("scale", [0.3, 3.0])  # large nuclei, small ones
@pytest.mark.parametrize("num_restricted", [0, 13, 40])
def test_scores_and_gradients_are_those_of_all_logits_whatever_the_chunk(
    num_restricted: int, scale: float, adapted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    num_tokens, width, vocabulary = 40, 8, 200
    head = (Adapted if adapted else nn.Linear)(width, vocabulary, bias=False).requires_grad_(False)
    nn.init.normal_(head.weight, std=scale)
    weight = head(torch.eye(width)).T
    sampled = make_sampled(num_tokens, num_restricted, vocabulary)
    hidden = torch.randn(num_tokens, width)
    expected, expected_entropies = expected_scores(hidden, weight, sampled)

    gradients = []
    for chunk_tokens in (7, 40, 1000):
        monkeypatch.setitem(logprobs_module.CHUNK_LOGITS, "cpu", chunk_tokens * vocabulary)
        with torch.no_grad():
            nuclei = distinct_logprobs(hidden, head, sampled, None).nuclei
        states = hidden.clone().requires_grad_()
        scores = distinct_logprobs(states, head, sampled, nuclei)
        torch.testing.assert_close(scores.logprobs.tolist(), expected, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(scores.entropy.tolist(), expected_entropies, atol=2e-5, rtol=0)
        assert not scores.entropy.requires_grad
        (gradient,) = torch.autograd.grad(scores.logprobs @ torch.arange(40.0), states)
        gradients.append(gradient)

    # By hand: of log softmax over the kept tokens, (row of the head - mean row) / temperature.
    for i in range(num_tokens):
        logits = weight.double() @ hidden[i].double() / sampled.temperature[i]
        kept = torch.tensor(
            sorted(
                vllm_kept(logits.tolist(), float(sampled.top_p[i])) | {int(sampled.token_ids[i])}
            )
        )
        rows = weight.double()
        mean = logits[kept].softmax(dim=0) @ rows[kept]
        by_hand = i * (rows[sampled.token_ids[i]] - mean) / sampled.temperature[i]
        for gradient in gradients:
            torch.testing.assert_close(gradient[i].double(), by_hand, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize(("most_numbers", "num_together"), [(10**6, 1), (1, 8)])
def test_small_nuclei_are_found_in_chunks_and_kept_together(
    most_numbers: int, num_together: int
) -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 200, bias=False).requires_grad_(False)
    sampled, hidden = make_sampled(40, 23, 200), torch.randn(23, 8)
    (at_once,) = find_nuclei(hidden, head, sampled, size=40, most_numbers=10**6)
    found = find_nuclei(hidden, head, sampled, size=3, most_numbers=most_numbers)
    assert len(found) == num_together
    by_token = [
        kept.token_ids.split([len(kept.num_others), kept.num_others.sum()]) for kept in found
    ]
    for i, both in enumerate(at_once.token_ids.split([23, len(at_once.token_ids) - 23])):
        assert torch.equal(torch.cat([part[i] for part in by_token]), both)
    assert torch.equal(torch.cat([kept.num_others for kept in found]), at_once.num_others)


def test_a_token_that_was_certain_has_logprob_zero() -> None:
    head = nn.Linear(4, 50, bias=False).requires_grad_(False)
    sampled = make_sampled(6, 6, 50)
    hidden = torch.randn(6, 4)
    certain = Nucleus(token_ids=sampled.token_ids.int(), num_others=torch.zeros(6).long())
    scores = distinct_logprobs(hidden, head, sampled, [certain])
    assert scores.logprobs.tolist() == [0.0] * 6
    assert scores.entropy.tolist() == [0.0] * 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_restricted", [0, 40])
def test_logits_of_a_half_precision_head_are_not_rounded_to_its_dtype(
    dtype: torch.dtype, num_restricted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    num_tokens, width, vocabulary = 40, 8, 200
    head = nn.Linear(width, vocabulary, bias=False, dtype=dtype).requires_grad_(False)
    nn.init.normal_(head.weight, std=1.0)
    sampled = make_sampled(num_tokens, num_restricted, vocabulary)
    hidden = torch.randn(num_tokens, width, dtype=dtype)
    expected, _ = expected_scores(hidden, head.weight, sampled)
    exact = hidden.double().requires_grad_()
    logits = exact @ head.weight.double().T / sampled.temperature.unsqueeze(-1)

    monkeypatch.setattr(head_module, "_CAST_WEIGHTS", 48 * width)
    for chunk_tokens in (7, 1000):
        monkeypatch.setitem(logprobs_module.CHUNK_LOGITS, "cpu", chunk_tokens * vocabulary)
        states = hidden.clone().requires_grad_()
        scores = distinct_logprobs(states, head, sampled, None)
        # Rounded to bfloat16, logits of this size would be off by 0.03.
        torch.testing.assert_close(scores.logprobs.tolist(), expected, atol=2e-5, rtol=1e-5)
        (gradient,) = torch.autograd.grad(scores.logprobs.sum(), states)
        assert gradient.dtype is dtype
        if not num_restricted:
            chosen = logits.log_softmax(dim=-1).gather(-1, sampled.token_ids.unsqueeze(-1))
            (by_hand,) = torch.autograd.grad(chosen.sum(), exact, retain_graph=True)
            torch.testing.assert_close(gradient.double(), by_hand, atol=0.1, rtol=0.02)


def test_the_gradient_over_nuclei_is_the_same_every_time() -> None:
    # A state is there once for every token of its nucleus; plain indexing gave 20 gradients in 20 passes.
    num_tokens, width, vocabulary = 2000, 64, 1024
    torch.manual_seed(0)
    head = nn.Linear(width, vocabulary, bias=False).requires_grad_(False)
    nn.init.normal_(head.weight, std=0.5)
    states = torch.randn(num_tokens, width)
    sampled = make_sampled(num_tokens, num_tokens, vocabulary)
    nuclei = distinct_logprobs(states, head, sampled, None).nuclei
    found = set()
    with torch_threads(4):
        for _ in range(20):
            hidden = states.clone().requires_grad_()
            distinct_logprobs(hidden, head, sampled, nuclei).logprobs.sum().backward()
            assert hidden.grad is not None
            found.add(hidden.grad.numpy().tobytes())
    assert len(found) == 1
