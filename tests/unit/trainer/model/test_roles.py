"""Roles against the plain base model with each adapter merged by hand, one sequence at a time."""

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.rounding import in_float64, rounding_bound
from tests.threads import torch_threads
from tests.tiny import TINY
from trainer.config.sections import PolicyConfig
from trainer.errors import UsageError
from trainer.model.adapter import read_adapter
from trainer.model.batches.batch import micro_batches
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role

CPU = torch.device("cpu")
MakeRoles = Callable[..., PolicyRoles]
Array = NDArray[np.float64]
EVERYTHING = 10**9
"""A token budget that puts all samples into one micro-batch."""


def make_samples(top_ps: tuple[float, ...] = (0.9, 0.95, 1.0)) -> list[Sample]:
    """Eight completions of different lengths, temperatures and nuclei; every second is truncated."""
    rng = random.Random(7)
    samples = []
    for i in range(8):
        length = rng.randint(1, 9)
        samples.append(
            Sample(
                prompt_ids=tuple(rng.choices(range(500), k=rng.randint(1, 12))),
                completion_ids=tuple(rng.choices(range(500), k=length)),
                sampler_logprobs=(-1.0,) * length,
                temperature=(0.2, 0.3, 0.5, 1.0)[i % 4],
                top_p=top_ps[i % len(top_ps)],
                reward=0.0,
                truncated=i % 2 == 0,
                version=0,
            )
        )
    return samples


SAMPLES = make_samples()


@pytest.fixture(scope="module")
def roles(make_roles: MakeRoles) -> PolicyRoles:
    """Roles that the tests of this module only read."""
    return make_roles()


@pytest.fixture(scope="module")
def exact_roles(make_roles: MakeRoles) -> PolicyRoles:
    """The same in float64, where another order of summing shows in no digit that a test reads."""
    return make_roles(dtype=torch.float64)


class Merged:
    """The plain base model with one role's adapter added to its weights: W + alpha / rank · B·A."""

    def __init__(self, base: Path, roles: PolicyRoles, role: Role):
        self.model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        weights = dict(self.model.named_parameters())
        state = roles.adapter_state(role)
        num_merged = 0
        for name, a in state.items():
            if "lora_A" in name:
                b = state[name.replace("lora_A", "lora_B")]
                path = name.removeprefix("base_model.model.").replace(".lora_A", "")
                weights[path].data += 8 / 4 * b @ a
                num_merged += 1
        assert num_merged == TINY.num_layers * 7  # modules

    @torch.no_grad()
    def logits(self, sample: Sample) -> Array:
        """[completion tokens, V] in float64: the logits before each completion token."""
        ids = torch.tensor([[*sample.prompt_ids, *sample.completion_ids]])
        logits: Array = self.model(input_ids=ids).logits[0].double().numpy()
        return logits[len(sample.prompt_ids) - 1 : -1]

    @torch.no_grad()
    def hidden(self, sample: Sample) -> Array:
        """[completion tokens + 1, H]: the states before each completion token and after the last."""
        ids = torch.tensor([[*sample.prompt_ids, *sample.completion_ids]])
        states: Array = self.model.model(input_ids=ids).last_hidden_state[0].double().numpy()
        return states[len(sample.prompt_ids) - 1 :]


@pytest.fixture(scope="module")
def merged(tiny_base: Path, roles: PolicyRoles) -> dict[Role, Merged]:
    return {role: Merged(tiny_base, roles, role) for role in Role}


def nucleus_by_hand(logits: np.ndarray, top_p: float, sampled: int) -> set[int]:
    """Walk from the most likely token until the mass that was passed reaches top_p."""
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    kept, passed = {sampled}, 0.0
    for token in sorted(range(len(logits)), key=lambda token: -probabilities[token]):
        if passed >= top_p:
            break
        kept.add(token)
        passed += probabilities[token]
    return kept


def scores_by_hand(
    model: Merged, sample: Sample, nucleus_model: Merged
) -> tuple[list[float], list[float]]:
    """Logprobs and entropies of a completion, normalised over the nuclei of ``nucleus_model``."""
    logprobs, entropies = [], []
    for logits, support_logits, sampled in zip(
        model.logits(sample), nucleus_model.logits(sample), sample.completion_ids, strict=True
    ):
        kept = nucleus_by_hand(support_logits / sample.temperature, sample.top_p, sampled)
        weights = {token: math.exp(logits[token] / sample.temperature) for token in kept}
        total = sum(weights.values())
        logprobs.append(math.log(weights[sampled] / total))
        entropies.append(-sum(w / total * math.log(w / total) for w in weights.values()))
    return logprobs, entropies


def by_sample(
    roles: PolicyRoles, role: Role, samples: list[Sample], token_budget: int
) -> list[Any]:
    """Logprobs, entropies and values of each sample, in the order of the samples."""
    rows: list[Any] = [None] * len(samples)
    with torch.no_grad():
        for batch in micro_batches(samples, token_budget=token_budget, hidden_size=128, device=CPU):
            scores, values = roles.token_logprobs(role, batch), roles.values(batch)
            for i, index in enumerate(batch.indices):
                n = len(samples[index].completion_ids)
                assert not scores.logprobs[i, n:].any()
                assert not scores.entropy[i, n:].any()
                rows[index] = (
                    scores.logprobs[i, :n].tolist(),
                    scores.entropy[i, :n].tolist(),
                    values[i, : n + 1].tolist(),
                )
    return rows


@pytest.mark.parametrize("role", Role)
def test_scores_are_those_of_the_merged_model_one_sequence_at_a_time(
    role: Role, roles: PolicyRoles, merged: dict[Role, Merged]
) -> None:
    rows = by_sample(roles, role, SAMPLES, EVERYTHING)
    for sample, (logprobs, entropies, _) in zip(SAMPLES, rows, strict=True):
        expected, expected_entropies = scores_by_hand(merged[role], sample, merged[role])
        np.testing.assert_allclose(logprobs, expected, atol=5e-5)
        np.testing.assert_allclose(entropies, expected_entropies, atol=5e-5)


def test_the_roles_of_these_tests_differ(roles: PolicyRoles) -> None:
    first = [by_sample(roles, role, SAMPLES, EVERYTHING)[0][0][0] for role in Role]
    assert min(abs(a - b) for i, a in enumerate(first) for b in first[:i]) > 1e-3


def test_a_role_can_be_scored_on_the_nucleus_of_another(
    roles: PolicyRoles, merged: dict[Role, Merged]
) -> None:
    (batch,) = micro_batches(SAMPLES, token_budget=EVERYTHING, hidden_size=128, device=CPU)
    with torch.no_grad():
        nuclei = roles.token_logprobs(Role.PROXIMAL, batch).nuclei
        scores = roles.token_logprobs(Role.POLICY, batch, nuclei)
    assert all(one is other for one, other in zip(scores.nuclei, nuclei, strict=True))
    for i, index in enumerate(batch.indices):
        sample = SAMPLES[index]
        expected, _ = scores_by_hand(merged[Role.POLICY], sample, merged[Role.PROXIMAL])
        np.testing.assert_allclose(scores.logprobs[i, : len(expected)], expected, atol=5e-5)


def test_without_top_p_there_is_no_support_to_replay(roles: PolicyRoles) -> None:
    (batch,) = micro_batches(
        make_samples((1.0,)), token_budget=EVERYTHING, hidden_size=128, device=CPU
    )
    assert roles.token_logprobs(Role.POLICY, batch).nuclei == ()


def test_values_are_the_critics_at_the_state_before_each_token_and_after_the_last(
    roles: PolicyRoles, merged: dict[Role, Merged]
) -> None:
    weight = roles.value_head.weight.detach().double().numpy()[0]
    bias = roles.value_head.bias.item()
    rows = by_sample(roles, Role.POLICY, SAMPLES, EVERYTHING)
    for sample, (_, _, values) in zip(SAMPLES, rows, strict=True):
        expected = merged[Role.CRITIC].hidden(sample) @ weight + bias
        # A terminal state has no value; the place repeats the one before.
        expected = expected if sample.truncated else [*expected[:-1], expected[-2]]
        np.testing.assert_allclose(values, expected, atol=5e-5)


@given(token_budget=st.integers(1, 200))
@settings(max_examples=12)
def test_no_token_budget_changes_a_score(token_budget: int, roles: PolicyRoles) -> None:
    whole = by_sample(roles, Role.POLICY, SAMPLES, EVERYTHING)
    for one, other in zip(by_sample(roles, Role.POLICY, SAMPLES, token_budget), whole, strict=True):
        for numbers, expected in zip(one, other, strict=True):
            np.testing.assert_allclose(numbers, expected, atol=1e-5)


# --- shared prefixes -----------------------------------------------------------------------------


@st.composite
def sample_sets(draw: st.DrawFn) -> list[Sample]:
    """Few token ids, so that prompts and completions share beginnings and some are the same."""
    ids = st.sampled_from([11, 222, 333])

    def tokens(most: int) -> st.SearchStrategy[tuple[int, ...]]:
        return st.lists(ids, min_size=1, max_size=most).map(tuple)

    prompts = draw(st.lists(tokens(10), min_size=1, max_size=3))
    samples = []
    for _ in range(draw(st.integers(1, 8))):
        completion = draw(tokens(6))
        samples.append(
            Sample(
                prompt_ids=draw(st.sampled_from(prompts)),
                completion_ids=completion,
                sampler_logprobs=(-1.0,) * len(completion),
                temperature=draw(st.sampled_from([0.5, 0.8, 1.0])),
                top_p=draw(st.sampled_from([0.9, 0.95, 1.0])),
                reward=0.0,
                truncated=draw(st.booleans()),
                version=0,
            )
        )
    return samples


def alone(roles: PolicyRoles, role: Role, sample: Sample) -> torch.Tensor:
    """[completion tokens + 1, H]: states of the sequence by itself, without mask or padding."""
    roles.activate(role)
    ids = torch.tensor([[*sample.prompt_ids, *sample.completion_ids]])
    states: torch.Tensor = roles.model.get_base_model().model(input_ids=ids, use_cache=False)[0][0]
    return states[len(sample.prompt_ids) - 1 :]


def logprobs_alone(roles: PolicyRoles, sample: Sample, kept: list[set[int]]) -> torch.Tensor:
    """[completion tokens] in float64 over the given nuclei, with gradient."""
    states = alone(roles, Role.POLICY, sample)[:-1].double()
    logits = states @ roles.model.get_base_model().lm_head.weight.double().T / sample.temperature
    return torch.stack(
        [
            row[token] - row[sorted(ids)].logsumexp(dim=0)
            for row, token, ids in zip(logits, sample.completion_ids, kept, strict=True)
        ]
    )


def nuclei_of(roles: PolicyRoles, samples: list[Sample], token_budget: int) -> list[list[set[int]]]:
    """What `score` normalised over, by sample and token."""
    found: list[list[set[int]]] = [[] for _ in samples]
    for batch in micro_batches(samples, token_budget=token_budget, hidden_size=128, device=CPU):
        with torch.no_grad():
            nuclei = roles.token_logprobs(Role.POLICY, batch).nuclei
        rows: list[set[int]] = []
        for chunk in nuclei:
            rows += [
                set(chunk.token_ids[chunk.rows == i].tolist()) for i in range(len(chunk.num_others))
            ]
        rows += [set(range(512))] * (len(batch.sampled.token_ids) - len(rows))
        for i, index in enumerate(batch.indices):
            found[index] = [rows[place] for place in batch.sampled_index[i][batch.mask[i]]]
    return found


@given(samples=sample_sets(), token_budget=st.integers(1, 80))
@settings(max_examples=30)
def test_shared_prefixes_change_no_score(
    samples: list[Sample], token_budget: int, roles: PolicyRoles
) -> None:
    kept = nuclei_of(roles, samples, token_budget)
    rows = by_sample(roles, Role.POLICY, samples, token_budget)
    for sample, nuclei, (logprobs, entropies, values) in zip(samples, kept, rows, strict=True):
        n = len(sample.completion_ids)
        with torch.no_grad():
            expected = logprobs_alone(roles, sample, nuclei)
            states = alone(roles, Role.POLICY, sample)[:-1].double()
            critic = roles.value_head(alone(roles, Role.CRITIC, sample))[:, 0]
        np.testing.assert_allclose(logprobs, expected, atol=1e-5)
        num_values = n + 1 if sample.truncated else n
        np.testing.assert_allclose(values[:num_values], critic[:num_values], atol=1e-5)
        logits = states @ roles.model.get_base_model().lm_head.weight.double().T
        for t in range(n):
            scaled = (logits[t] / sample.temperature).numpy()
            masses = scaled[sorted(nuclei[t])]
            masses = np.exp(masses - masses.max())
            masses /= masses.sum()
            np.testing.assert_allclose(entropies[t], -(masses * np.log(masses)).sum(), atol=1e-5)
            # And the nucleus is the right one, up to the rounding of its edge.
            whole = np.sort(np.exp(scaled - scaled.max()))[::-1]
            before = (whole.cumsum() - whole) / whole.sum()
            sizes = [(before < sample.top_p + slack).sum() for slack in (-1e-5, 1e-5)]
            # The sampled token may be one more.
            assert sizes[0] <= len(nuclei[t]) <= sizes[1] + 1


@given(samples=sample_sets(), token_budget=st.integers(1, 80))
@settings(max_examples=10)
@in_float64()
def test_shared_prefixes_change_no_gradient(
    samples: list[Sample], token_budget: int, exact_roles: PolicyRoles
) -> None:
    for ours, expected in gradients_shared_and_alone(samples, token_budget, exact_roles):
        norm = expected.norm()
        torch.testing.assert_close(ours / norm, expected / norm, atol=1e-6, rtol=0)


@given(samples=sample_sets(), token_budget=st.integers(1, 80))
@settings(max_examples=5)
def test_shared_prefixes_change_gradients_by_rounding_alone(
    samples: list[Sample], token_budget: int, roles: PolicyRoles
) -> None:
    for ours, expected in gradients_shared_and_alone(samples, token_budget, roles):
        norm = expected.norm()
        bound = rounding_bound(128, scale=1.0)
        torch.testing.assert_close(ours / norm, expected / norm, atol=bound, rtol=0)


def gradients_shared_and_alone(
    samples: list[Sample], token_budget: int, roles: PolicyRoles
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """For policy and critic: gradients with shared prefixes, and gradients of one sample at a time."""
    factors = [
        torch.randn(len(s.completion_ids), generator=torch.Generator().manual_seed(i))
        for i, s in enumerate(samples)
    ]
    kept = nuclei_of(roles, samples, token_budget)

    def gradients(losses: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """The gradients of the policy and of the critic, each with all parameters in one vector."""
        for loss in losses:
            loss.backward()
        found = [
            torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            for parameters in (roles.adapter_parameters(Role.POLICY), roles.critic_parameters())
        ]
        roles.zero_grad(set_to_none=True)
        return found

    def shared() -> Iterator[torch.Tensor]:
        for batch in micro_batches(samples, token_budget=token_budget, hidden_size=128, device=CPU):
            weights = torch.nn.utils.rnn.pad_sequence(
                [factors[i] for i in batch.indices], batch_first=True
            )
            yield (roles.token_logprobs(Role.POLICY, batch).logprobs * weights).sum()
            yield (roles.values(batch)[:, :-1] * weights).sum()

    def separate() -> Iterator[torch.Tensor]:
        for sample, nuclei, weights in zip(samples, kept, factors, strict=True):
            yield logprobs_alone(roles, sample, nuclei) @ weights.double()
            states = alone(roles, Role.CRITIC, sample)[:-1]
            yield roles.value_head(states)[:, 0] @ weights

    return zip(gradients(shared()), gradients(separate()), strict=True)


def test_gradient_checkpointing_changes_nothing_but_memory(tiny_base: Path) -> None:
    found = []
    for gradient_checkpointing in (False, True):
        torch.manual_seed(0)
        config = PolicyConfig(
            base_model=str(tiny_base), gradient_checkpointing=gradient_checkpointing
        )
        roles = PolicyRoles(config, device=CPU, serve_dtype=torch.float32)
        with torch.no_grad():
            for parameter in roles.adapter_parameters(Role.POLICY):
                parameter.add_(0.1 * torch.randn(parameter.shape))
        num_kept = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal num_kept
            num_kept += tensor.numel()
            return tensor

        (batch,) = micro_batches(SAMPLES, token_budget=EVERYTHING, hidden_size=128, device=CPU)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = roles.token_logprobs(Role.POLICY, batch).logprobs.sum()
        loss.backward()
        gradients = [p.grad for p in roles.adapter_parameters(Role.POLICY) if p.grad is not None]
        found.append((gradients, num_kept))
    (plain, much), (checkpointed, little) = found
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))
    assert little < much / 4


@pytest.mark.parametrize("setting", [{"autocast": True}, {"dtype": "bfloat16"}])
def test_bfloat16_scores_about_the_same_and_trains_float32(
    setting: dict[str, object], roles: PolicyRoles, tiny_base: Path
) -> None:
    config = PolicyConfig(base_model=str(tiny_base), lora_rank=4, lora_alpha=8, **setting)
    half = PolicyRoles(config, device=CPU, serve_dtype=torch.float32)
    half.load_adapter_state(Role.POLICY, roles.adapter_state(Role.POLICY))
    (batch,) = micro_batches(
        make_samples((1.0,)), token_budget=EVERYTHING, hidden_size=128, device=CPU
    )
    logprobs = half.token_logprobs(Role.POLICY, batch).logprobs
    with torch.no_grad():
        expected = roles.token_logprobs(Role.POLICY, batch).logprobs
    assert 0 < float((logprobs.detach() - expected).abs().mean()) < 0.2
    logprobs.sum().backward()
    for parameter in half.adapter_parameters(Role.POLICY):
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None


def test_only_the_scored_role_gets_gradients(make_roles: MakeRoles) -> None:
    roles = make_roles()
    (batch,) = micro_batches(SAMPLES, token_budget=EVERYTHING, hidden_size=128, device=CPU)
    roles.token_logprobs(Role.REFERENCE, batch)
    roles.values(batch)
    roles.token_logprobs(Role.POLICY, batch).logprobs.sum().backward()
    moved = {id(p) for p in roles.parameters() if p.grad is not None and p.grad.any()}
    assert moved == {id(p) for p in roles.adapter_parameters(Role.POLICY)}


# --- starting, exporting, loading --------------------------------------------------------------


def fresh_roles(base: Path, adapter: Path | None = None) -> PolicyRoles:
    config = PolicyConfig(base_model=str(base), adapter=adapter, lora_rank=4, lora_alpha=8)
    return PolicyRoles(config, device=CPU, serve_dtype=torch.float32)


def same_state(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_role_starts_as_the_base_and_the_critic_at_zero(tiny_base: Path) -> None:
    roles = fresh_roles(tiny_base)
    start = roles.adapter_state(Role.POLICY)
    assert all(same_state(start, roles.adapter_state(role)) for role in Role)
    assert not any(t.any() for name, t in start.items() if "lora_B" in name)
    (batch,) = micro_batches(SAMPLES, token_budget=EVERYTHING, hidden_size=128, device=CPU)
    assert not roles.values(batch).any()


def test_the_roles_share_a_frozen_base_and_nothing_else(tiny_base: Path) -> None:
    roles = fresh_roles(tiny_base)
    by_role = [{id(p) for p in roles.adapter_parameters(role)} for role in Role]
    adapters = set().union(*by_role)
    assert (
        sum(map(len, by_role)) == len(adapters) == 4 * 2 * TINY.num_layers * 7
    )  # roles, A and B, layers, modules
    head = {id(p) for p in roles.value_head.parameters()}
    assert {id(p) for p in roles.critic_parameters()} == by_role[
        list(Role).index(Role.CRITIC)
    ] | head
    base = [p for p in roles.parameters() if id(p) not in adapters | head]
    assert sum(p.numel() for p in base) > 500_000
    assert not any(p.requires_grad for p in base)


def test_a_starting_adapter_is_where_every_role_starts(
    make_roles: MakeRoles, tiny_base: Path, tmp_path: Path
) -> None:
    trained = make_roles()
    trained.export_policy(tmp_path)
    roles = fresh_roles(tiny_base, tmp_path)
    for role in Role:
        assert same_state(roles.adapter_state(role), trained.adapter_state(Role.POLICY))
    # It trains: an exported adapter says inference_mode, which must not freeze it.
    (batch,) = micro_batches(SAMPLES, token_budget=EVERYTHING, hidden_size=128, device=CPU)
    roles.token_logprobs(Role.POLICY, batch).logprobs.sum().backward()
    assert all(p.grad is not None for p in roles.adapter_parameters(Role.POLICY))


@pytest.mark.parametrize(
    ("setting", "value", "complaint"),
    [("lora_dropout", 0.1, "lora_dropout is 0.1"), ("peft_type", "IA3", "not a LoRA adapter")],
)
def test_a_starting_adapter_that_cannot_be_served_is_refused(
    setting: str,
    value: object,
    complaint: str,
    make_roles: MakeRoles,
    tiny_base: Path,
    tmp_path: Path,
) -> None:
    make_roles().export_policy(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {setting: value}))
    with pytest.raises(UsageError, match=complaint) as caught:
        fresh_roles(tiny_base, tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("serve_dtype", [torch.float32, torch.bfloat16])
def test_plain_peft_and_the_proximal_role_load_what_was_exported(
    serve_dtype: torch.dtype, make_roles: MakeRoles, tiny_base: Path, tmp_path: Path
) -> None:
    roles = make_roles(serve_dtype=serve_dtype)
    roles.export_policy(tmp_path)

    exported = load_file(tmp_path / "adapter_model.safetensors")
    policy = roles.adapter_state(Role.POLICY)
    assert same_state(exported, {name: t.to(serve_dtype) for name, t in policy.items()})
    assert same_state(exported, roles.rounded_policy())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")

    roles.load_adapter_state(Role.PROXIMAL, read_adapter(tmp_path))
    rounded = {name: t.to(serve_dtype).float() for name, t in policy.items()}
    assert same_state(roles.adapter_state(Role.PROXIMAL), rounded)
    assert same_state(roles.adapter_state(Role.POLICY), policy)

    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, tmp_path)
    for sample in SAMPLES[:3]:
        ids = torch.tensor([[*sample.prompt_ids, *sample.completion_ids]])
        roles.activate(Role.PROXIMAL)
        with torch.no_grad():
            torch.testing.assert_close(
                plain(input_ids=ids).logits, roles.model(input_ids=ids).logits
            )


def test_adapter_states_are_copies_that_load_into_any_role(make_roles: MakeRoles) -> None:
    roles = make_roles()
    state = roles.adapter_state(Role.POLICY)
    before = {name: tensor.clone() for name, tensor in state.items()}
    roles.load_adapter_state(Role.CRITIC, state)
    assert same_state(roles.adapter_state(Role.CRITIC), state)
    with torch.no_grad():
        for parameter in roles.adapter_parameters(Role.POLICY):
            parameter.zero_()
    assert same_state(state, before)
    assert same_state(roles.adapter_state(Role.CRITIC), before)


def _without_one(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(list(state.items())[1:])


def _with_another(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return state | {"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": torch.ones(4, 4)}


def _of_another_rank(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: t[:2] if "lora_A" in name else t[:, :2] for name, t in state.items()}


@pytest.mark.parametrize("damage", [_without_one, _with_another, _of_another_rank])
def test_a_state_that_does_not_fit_is_refused(
    damage: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], make_roles: MakeRoles
) -> None:
    roles = make_roles()
    state = damage(roles.adapter_state(Role.POLICY))
    with pytest.raises(RuntimeError):
        roles.load_adapter_state(Role.CRITIC, state)


def test_gradients_of_two_threads_are_the_same_every_time(make_roles: MakeRoles) -> None:
    """There are so many completions of one prompt that each thread has a part of its last state's gradient."""
    roles = make_roles()
    samples = [
        replace(
            SAMPLES[0],
            completion_ids=(i % 500,),
            sampler_logprobs=(-1.0,),
            temperature=1 + i // 500,
            top_p=1.0,
        )
        for i in range(2000)
    ]
    (batch,) = micro_batches(
        samples, token_budget=EVERYTHING, hidden_size=roles.hidden_size, device=CPU
    )
    # From so many numbers on PyTorch divides a gather's gradient.
    assert len(batch.sampled.states) * roles.hidden_size > 2**15
    roles.activate(Role.POLICY)
    found = set()
    with torch_threads(2):
        for _ in range(10):
            logprobs = roles.token_logprobs(Role.POLICY, batch).logprobs
            gradients = torch.autograd.grad(
                logprobs.square().sum(), roles.adapter_parameters(Role.POLICY)
            )
            found.add(b"".join(gradient.numpy().tobytes() for gradient in gradients))
    assert len(found) == 1
