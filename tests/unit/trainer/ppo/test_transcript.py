"""A whole PPO update of three completions, written down once more as the papers have it.

Nothing of the trainer's batching, scoring, losses or optimizers is used: each completion goes
through the model by itself, sums are Python's, and AdamW is NumPy in float64.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.rounding import in_float64
from trainer.config.sections import PPOConfig
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.update import PPOUpdate

MakeRoles = Callable[..., PolicyRoles]
Array = NDArray[np.float64]

CONFIG = PPOConfig(
    learning_rate=1e-3,
    critic_learning_rate=2e-3,
    num_epochs=2,
    questions_per_mini_batch=1,
    gamma=0.98,
    gae_lambda=0.9,
    critic_gae_lambda=0.97,
    clip_low=0.01,
    clip_high=0.02,
    value_clip=0.15,
    kl_coef=0.2,
    kl_estimator="k3",
    max_grad_norm=0.5,
)

EPS = 1e-4
"""AdamW's epsilon: with 1e-8, the rounding of the smallest float32 gradients would be scaled up."""

# Two completions of one question and a truncated one of another.
GROUPS = [
    [
        Sample(
            prompt_ids=(5, 301, 44),
            completion_ids=(17, 290, 8, 411, 2),
            sampler_logprobs=(-5.0, -6.5, -4.0, -6.0, -7.0),
            temperature=0.8,
            top_p=0.9,
            reward=1.2,
            truncated=False,
            version=0,
        ),
        Sample(
            prompt_ids=(5, 301, 44),
            completion_ids=(17, 60),
            sampler_logprobs=(-6.0, -5.5),
            temperature=1.0,
            top_p=1.0,
            reward=-0.5,
            truncated=False,
            version=0,
        ),
    ],
    [
        Sample(
            prompt_ids=(33, 9, 210, 7),
            completion_ids=(120, 121, 122),
            sampler_logprobs=(-6.2, -6.1, -5.9),
            temperature=0.5,
            top_p=0.95,
            reward=0.3,
            truncated=True,
            version=0,
        )
    ],
]


def forward(roles: PolicyRoles, role: Role, sample: Sample) -> tuple[Tensor, Tensor]:
    """Scaled logits [n, V] at, and values [n + 1] of, the states of one completion."""
    roles.model.set_adapter(role)
    ids = torch.tensor([[*sample.prompt_ids, *sample.completion_ids]])
    out = roles.model(input_ids=ids, output_hidden_states=True)
    first = len(sample.prompt_ids) - 1
    logits = out.logits[0, first:-1].double() / sample.temperature
    return logits, roles.value_head(out.hidden_states[-1][0, first:])[:, 0].double()


def nuclei(logits: Tensor, sample: Sample) -> list[list[int]]:
    """For every state, the fewest tokens, likeliest first, whose mass reaches top_p; and the sampled token."""
    kept = []
    for distribution, sampled in zip(
        logits.softmax(-1).tolist(), sample.completion_ids, strict=True
    ):
        likeliest = sorted(range(len(distribution)), key=lambda i: -distribution[i])
        mass, nucleus = 0.0, [sampled]
        for token in likeliest:
            if mass >= sample.top_p:
                break
            mass += distribution[token]
            nucleus.append(token)
        kept.append(sorted(set(nucleus)))
    return kept


def logprobs(logits: Tensor, kept: list[list[int]], sample: Sample) -> list[Tensor]:
    return [
        row[token] - torch.logsumexp(row[nucleus], 0)
        for row, nucleus, token in zip(logits, kept, sample.completion_ids, strict=True)
    ]


class AdamW:
    """Loshchilov & Hutter 2019, algorithm 2, without decay, after clipping by the global norm."""

    def __init__(self, learning_rate: float, parameters: list[torch.nn.Parameter]):
        self.learning_rate, self.parameters, self.t = learning_rate, parameters, 0
        self.weights: list[Array] = [p.detach().double().numpy().copy() for p in parameters]
        self.m = [np.zeros_like(w) for w in self.weights]
        self.v = [np.zeros_like(w) for w in self.weights]

    def step(self, loss: Tensor) -> float:
        gradients = [g.double().numpy() for g in torch.autograd.grad(loss, self.parameters)]
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        self.t += 1
        for i, g in enumerate(gradients):
            g = g * min(1.0, CONFIG.max_grad_norm / (norm + 1e-6))
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g**2
            m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            self.weights[i] = self.weights[i] - self.learning_rate * m / (np.sqrt(v) + EPS)
            with torch.no_grad():
                self.parameters[i].copy_(torch.from_numpy(self.weights[i]))
        return norm


def transcript(roles: PolicyRoles, mini_batches: list[list[Sample]]) -> dict[str, float]:
    fixed, kl = {}, 0.0
    for sample in (s for mini_batch in mini_batches for s in mini_batch):
        with torch.no_grad():
            logits, _ = forward(roles, Role.PROXIMAL, sample)
            kept = nuclei(logits, sample)
            proximal = [float(p) for p in logprobs(logits, kept, sample)]
            logits, _ = forward(roles, Role.REFERENCE, sample)
            reference = [float(p) for p in logprobs(logits, kept, sample)]
            values = forward(roles, Role.CRITIC, sample)[1].tolist()
        n = len(proximal)
        # Ziegler et al. 2019, eq. 2, with Schulman's k3; a truncated completion is not rewarded.
        ratios = [math.exp(r - p) for p, r in zip(proximal, reference, strict=True)]
        rewards = [-0.2 * (ratio - 1 - math.log(ratio)) for ratio in ratios]
        if sample.truncated:
            after = values[1:]
        else:
            rewards[-1] += sample.reward
            after = [*values[1:-1], 0.0]
        # Schulman et al. 2016, eq. 16.
        deltas = [rewards[t] + 0.98 * after[t] - values[t] for t in range(n)]
        advantages, of_critic = (
            [sum((0.98 * lam) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)]
            for lam in (0.9, 0.97)
        )
        returns = [a + v for a, v in zip(of_critic, values[:n], strict=True)]
        weights = [
            min(math.exp(p - b), 2.0)
            for p, b in zip(proximal, sample.sampler_logprobs, strict=True)
        ]
        fixed[sample] = kept, proximal, values, advantages, weights, returns
        kl += sum(ratio - 1 - math.log(ratio) for ratio in ratios) / 3
    everything = np.array([a for f in fixed.values() for a in f[3]])
    mean, std = everything.mean(), everything.std(ddof=1)

    policy = AdamW(1e-3, roles.adapter_parameters(Role.POLICY))
    critic = AdamW(2e-3, roles.critic_parameters())
    policy_norms, critic_norms, policy_losses, value_losses = [], [], [], []
    clipped: list[bool] = []
    for mini_batch in mini_batches * 2:
        terms = []
        for sample in mini_batch:
            kept, proximal, _, advantages, weights, _ = fixed[sample]
            current = logprobs(forward(roles, Role.POLICY, sample)[0], kept, sample)
            for t, logprob in enumerate(current):
                # Schulman et al. 2017, eq. 7; Ye et al. 2020, eq. 5.
                a = (advantages[t] - mean) / std
                ratio = torch.exp(logprob - proximal[t])
                bounded = ratio.clamp(0.99, 1.02)
                surrogate = torch.min(ratio * a, bounded * a)
                if a < 0:
                    surrogate = surrogate.clamp(min=3.0 * a)
                terms.append(-weights[t] * surrogate)
                clipped.append((bounded * a).item() < (ratio * a).item())
        loss = torch.stack(terms).mean()
        policy_losses.append(loss.item())
        policy_norms.append(policy.step(loss))
        terms = []
        for sample in mini_batch:
            _, _, old_values, _, _, returns = fixed[sample]
            current_values = forward(roles, Role.CRITIC, sample)[1]
            for t, target in enumerate(returns):
                near = old_values[t] + (current_values[t] - old_values[t]).clamp(-0.15, 0.15)
                terms.append(torch.max((current_values[t] - target) ** 2, (near - target) ** 2) / 2)
        loss = torch.stack(terms).mean()
        value_losses.append(loss.item())
        critic_norms.append(critic.step(loss))
    return {
        "ppo/policy_loss": float(np.mean(policy_losses)),
        "ppo/value_loss": float(np.mean(value_losses)),
        "ppo/policy_grad_norm": float(np.mean(policy_norms)),
        "ppo/critic_grad_norm": float(np.mean(critic_norms)),
        "ppo/clip_fraction": float(np.mean(clipped)),
        "ppo/reference_kl": kl,
    }


@in_float64()
def test_an_update_is_what_its_equations_say(make_roles: MakeRoles) -> None:
    roles, again = make_roles(dtype=torch.float64), make_roles(dtype=torch.float64)
    for r in (roles, again):  # what generated is what trains, as after every push
        r.load_adapter_state(Role.PROXIMAL, r.adapter_state(Role.POLICY))
    start = [
        p.detach().clone()
        for p in (*roles.adapter_parameters(Role.POLICY), *roles.critic_parameters())
    ]
    update = PPOUpdate(roles, CONFIG)
    for optimizer in (update.policy_optimizer, update.critic_optimizer):
        for group in optimizer.param_groups:
            group["eps"] = EPS
    mini_batches = update.experience(GROUPS, seed="x")
    metrics = update.step(mini_batches, train_policy=True).by_name()

    # The seed decides which question comes first.
    first = {token for e in mini_batches[0] for token in e.batch.sampled.token_ids.tolist()}
    order = GROUPS if first.issuperset(GROUPS[0][0].completion_ids) else GROUPS[::-1]
    expected = transcript(again, order)

    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert 0.1 < expected["ppo/clip_fraction"] < 0.9
    assert expected["ppo/policy_grad_norm"] > CONFIG.max_grad_norm
    for parameter, transcribed in zip(roles.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(parameter, transcribed, rtol=0, atol=1e-6)
    trained = [*roles.adapter_parameters(Role.POLICY), *roles.critic_parameters()]
    moved = [p.detach() - old for p, old in zip(trained, start, strict=True)]
    assert min(float(change.abs().max()) for change in moved) > 2e-4
    assert update.kl.coef == pytest.approx(0.2 * (1 + 0.2 / 10), rel=1e-12)
