"""Online PPO on a LoRA adapter in one file: `python -m trainer train` at its shortest.

`make demo` makes a tiny model and an SFT adapter. Serve the model in one terminal, train in another::

    python -m inference_server --model models/tiny-base
    python examples/minimal_ppo.py --model models/tiny-base --adapter runs/demo/sft

Each step

1. asks the server for completions: eight arms (prompt and temperature) answer each question;
2. rewards each completion with Regime W, which looks at all completions of the question;
3. compares each completion with the others of its question: that is its advantage;
4. updates the LoRA adapter with PPO, one optimizer step per mini-batch;
5. pushes the adapter as a new version, which answers the next step's questions.

Three policies give each sampled token a logprob:

- *behaviour*: the version that sampled it, as computed by the server;
- *proximal*: the same version, as computed here. These two differ only by rounding;
- *current*: the adapter while it is trained. PPO clips the ratio current/proximal.

This example leaves out what the trainer has: a critic, generation during the update, nucleus masks
(the arms here have top_p 1), retries, checkpoints and resume, a test of each push, chat templates,
reports.
"""

import argparse
import hashlib
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import torch
from peft import PeftModel
from pydantic import ValidationError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

import regime_w
from inference_server.wire import schemas as wire
from inference_server.wire.base_files import base_folder, fingerprint
from trainer.data.word_problems import Problem, Split, word_problems

ARMS = [arm.model_copy(update={"top_p": 1.0}) for arm in regime_w.build_all_arms()]
CLIP = 0.2  # the ratio's gradient stops outside [1 - CLIP, 1 + CLIP]
MAX_WEIGHT = 2.0  # cap on the importance weight proximal/behaviour
MAX_MISMATCH = 0.05  # nats per token between server and trainer; rounding stays far below
POLICY, REFERENCE = "default", "reference"  # the adapters' names in PEFT


class ExampleError(Exception):
    """Something the user can fix; its message is one line."""


class Server(httpx.Client):
    """Steps 1 and 5: the four routes that online training needs."""

    def __init__(self, url: str):
        """Take the API key from the environment, as the trainer does."""
        key = os.environ.get("REGIME_W_API_KEY", "")
        if not (key.isascii() and key.isprintable()):
            raise ExampleError("REGIME_W_API_KEY: must be printable ASCII, as it goes in a header")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        super().__init__(headers=headers, timeout=300, trust_env=False)
        self._url = url.rstrip("/")

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            answer = self.request(method, self._url + path, **content)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ExampleError(f"--url {self._url}: no server: {error}") from error
        if not answer.is_success:
            raise ExampleError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer

    def status(self) -> wire.ServerStatus:
        """Which base model is served, and which version number is free."""
        try:
            return wire.ServerStatus.model_validate_json(self._send("GET", "/v1/status").content)
        except ValidationError as error:
            raise ExampleError(f"--url {self._url}: not a Regime W server") from error

    def generate(self, problems: Sequence[Problem], **options: Any) -> list[wire.ArmGroup]:
        """A group of completions for each question, one from each arm, with tokens and logprobs."""
        questions = [wire.Question(id=str(i), question=p.question) for i, p in enumerate(problems)]
        options |= {"questions": questions, "arms": ARMS, "prompt_format": "plain"}
        request = wire.ArmsRequest(**options)
        answer = self._send("POST", "/v1/arms/generate", json=request.model_dump(mode="json"))
        return wire.ArmsResponse.model_validate_json(answer.content).groups

    def push(self, version: int, model: Any, folder: Path) -> None:
        """Upload the adapter in the form in which PEFT saves it; it is served once this returns."""
        model.save_pretrained(folder, selected_adapters=[POLICY], save_embedding_layers=False)
        names = wire.ADAPTER_CONFIG_FILE, wire.ADAPTER_WEIGHTS_FILE
        files = {name: (folder / name).read_bytes() for name in names}
        digest = hashlib.sha256(files[wire.ADAPTER_WEIGHTS_FILE]).hexdigest()
        self._send("PUT", f"/v1/adapters/{version}", files=files, data={"sha256": digest})

    def accuracy(self, version: int, problems: Sequence[Problem], max_tokens: int) -> float:
        """The share of correct greedy answers, generated by vLLM's own completions route."""
        body = {"model": wire.adapter_name(version), "max_tokens": max_tokens, "temperature": 0}
        body["prompt"] = [
            regime_w.build_prompt(ARMS[0].system_prompt, p.question) for p in problems
        ]
        choices = self._send("POST", "/v1/completions", json=body).json()["choices"]
        answers = [regime_w.extract_answer(choice["text"]) for choice in choices]
        golds = [regime_w.extract_gold(problem.answer) for problem in problems]
        return statistics.fmean(a == gold for a, gold in zip(answers, golds, strict=True))


@dataclass(frozen=True)
class Rollout:
    """A completion and what it earned."""

    completion: wire.ArmCompletion
    reward: float


def score(group: wire.ArmGroup, problem: Problem) -> list[Rollout]:
    """Step 2: reward each arm for its answer, its agreement with the others and true equations."""
    if any(arm.finish_reason is wire.FinishReason.ABORT for arm in group.arms):
        raise ExampleError("the engine aborted a completion, which is not a wrong answer")
    outputs = [regime_w.ArmOutput.from_text(arm.arm, arm.text) for arm in group.arms]
    rewards = regime_w.arm_rewards(problem.question, outputs, problem.answer)
    return [Rollout(arm, reward) for arm, reward in zip(group.arms, rewards, strict=True)]


@dataclass(frozen=True)
class Batch:
    """B completions as tensors, with P prompt and C completion tokens each, padding included."""

    prompts: Tensor  # [B, P] padded on the left, so that completions start in the same column
    prompt_mask: Tensor  # [B, P] 1 at real tokens
    tokens: Tensor  # [B, C] sampled token ids, padded on the right
    mask: Tensor  # [B, C] 1 at sampled tokens
    behaviour: Tensor  # [B, C] the server's logprobs
    temperature: Tensor  # [B]
    rewards: Tensor  # [B]

    @classmethod
    def of(cls, rollouts: Sequence[Rollout], device: torch.device) -> "Batch":
        """Pad the completions. Token ids come from the server: text is never tokenised again."""

        def pad(rows: Sequence[Sequence[float]], side: str) -> Tensor:
            tensors = [torch.tensor(row) for row in rows]
            return pad_sequence(tensors, batch_first=True, padding_side=side).to(device)

        arms = [rollout.completion for rollout in rollouts]
        return cls(
            prompts=pad([arm.prompt_token_ids for arm in arms], "left"),
            prompt_mask=pad([[1] * len(arm.prompt_token_ids) for arm in arms], "left"),
            tokens=pad([arm.token_ids for arm in arms], "right"),
            mask=pad([[1] * len(arm.token_ids) for arm in arms], "right"),
            behaviour=pad([arm.logprobs for arm in arms], "right"),
            temperature=torch.tensor([arm.temperature for arm in arms], device=device),
            rewards=torch.tensor([rollout.reward for rollout in rollouts], device=device),
        )


def token_logprobs(model: Any, batch: Batch, adapter: str) -> Tensor:
    """Logprobs [B, C] of the sampled tokens, each at the temperature it was sampled with."""
    model.set_adapter(adapter)
    mask = torch.cat([batch.prompt_mask, batch.mask], dim=1)
    logits = model(
        input_ids=torch.cat([batch.prompts, batch.tokens], dim=1),
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        logits_to_keep=batch.tokens.shape[1] + 1,
        use_cache=False,
    ).logits[:, :-1]  # [B, C, V]: a token's logits are those of the position before it
    logprobs = (logits.float() / batch.temperature[:, None, None]).log_softmax(dim=-1)
    sampled: Tensor = logprobs.gather(-1, batch.tokens.unsqueeze(-1)).squeeze(-1)
    return sampled


def leave_one_out(values: Tensor, group_size: int) -> Tensor:
    """Step 3: each of [B] values minus the mean of the others in its group, RLOO's baseline."""
    groups = values.view(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    return (centred * group_size / (group_size - 1)).view(-1)


def ppo_loss(current: Tensor, proximal: Tensor, advantages: Tensor, batch: Batch) -> Tensor:
    """PPO's clipped objective (Schulman et al. 2017, eq. 7), mean over the sampled tokens."""
    weight = (proximal - batch.behaviour).exp().clamp(max=MAX_WEIGHT)  # corrects for rounding
    ratio = (current - proximal).exp()
    gain = ratio * advantages.unsqueeze(1)
    clipped = ratio.clamp(1 - CLIP, 1 + CLIP) * advantages.unsqueeze(1)
    return -(weight * torch.minimum(gain, clipped))[batch.mask.bool()].mean()


def update(
    model: Any, optimizer: torch.optim.Optimizer, groups: list[list[Rollout]], args: Any
) -> dict[str, float]:
    """Step 4: one optimizer step per mini-batch; returns each metric's mean over the mini-batches."""
    prepared, metrics = [], []
    with torch.no_grad():  # for all mini-batches, before the adapter changes
        for start in range(0, len(groups), args.mini_batch):
            chosen = groups[start : start + args.mini_batch]
            batch = Batch.of([rollout for group in chosen for rollout in group], model.device)
            proximal = token_logprobs(model, batch, POLICY)
            reference = token_logprobs(model, batch, REFERENCE)
            kl = ((proximal - reference) * batch.mask).sum(dim=1)  # [B] nats per completion
            advantages = leave_one_out(batch.rewards - args.kl_coef * kl, len(chosen[0]))
            prepared.append((batch, proximal, advantages))
            mismatch = (proximal - batch.behaviour).abs()[batch.mask.bool()].mean()
            metrics.append({"kl": float(kl.mean()), "mismatch": float(mismatch)})
    if (worst := max(row["mismatch"] for row in metrics)) > MAX_MISMATCH:
        raise ExampleError(f"server and trainer differ by {worst:.2g} nats per token: not in sync")
    for row, (batch, proximal, advantages) in zip(metrics, prepared, strict=True):
        loss = ppo_loss(token_logprobs(model, batch, POLICY), proximal, advantages, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()
        row["loss"] = loss.item()
    return {name: statistics.fmean(row[name] for row in metrics) for name in metrics[0]}


def train(args: argparse.Namespace, server: Server) -> None:
    """Run all steps; print a line for each, and the held-out accuracy before and after."""
    for name, value in vars(args).items():
        if isinstance(value, int) and value < 1 and name != "seed":
            raise ExampleError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    status = server.status()
    if not (folder := base_folder(args.model)) or fingerprint(folder) != status.base_fingerprint:
        raise ExampleError(f"--model {args.model}: the server serves {status.base_model}")
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(device)
    try:
        model = PeftModel.from_pretrained(base, args.adapter, POLICY, is_trainable=True)
        model.load_adapter(args.adapter, REFERENCE)
    except (ValueError, OSError, RuntimeError) as error:
        raise ExampleError(f"--adapter {args.adapter}: {str(error).splitlines()[0]}") from error
    model.set_adapter(POLICY)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    server.push(version := status.next_version, model, args.output)
    held_out = list(islice(word_problems(Split.HELD_OUT), args.eval_questions))
    before = server.accuracy(version, held_out, args.max_tokens)
    print(f"version {version}: {before:.1%} of {len(held_out)} held-out questions correct")
    started = time.monotonic()
    questions = word_problems(Split.TRAIN, seed=args.seed)
    for step in range(1, args.steps + 1):
        problems = list(islice(questions, args.questions))
        options = {"seed": args.seed * 1_000_000 + step, "max_tokens": args.max_tokens}
        groups = server.generate(problems, policy=version, **options)
        scored = [score(group, problem) for group, problem in zip(groups, problems, strict=True)]
        # A group whose completions all earn the same reward has no advantage to learn from.
        useful = [group for group in scored if len({rollout.reward for rollout in group}) > 1]
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - (step - 1) / args.steps)
        metrics = update(model, optimizer, useful, args) if useful else {}
        server.push(version := version + 1, model, args.output)
        reward = statistics.fmean(rollout.reward for group in scored for rollout in group)
        numbers = " ".join(f"{name} {value:.3g}" for name, value in metrics.items())
        print(f"step {step} version {version} reward {reward:+.3f} {numbers}", flush=True)
    seconds = time.monotonic() - started
    after = server.accuracy(version, held_out, args.max_tokens)
    print(f"version {version}: {before:.1%} -> {after:.1%} correct after {seconds:.0f} s of PPO")


def main() -> int:
    """Exit code: 0, 2 after one line that says what to fix, 130 after Ctrl-C."""
    about, formatter = (__doc__ or "").splitlines()[0], argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(
        description=about, formatter_class=formatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000", help="the server; REGIME_W_API_KEY holds its key")
    add("--model", default="models/tiny-base", help="base model; the server must serve it")
    add("--adapter", default="runs/demo/sft", help="LoRA adapter to start from")
    add("--output", type=Path, default=Path("runs/minimal-ppo"), help="folder for the new adapter")
    add("--steps", type=int, default=24, help="rounds of generate, update, push")
    add("--questions", type=int, default=16, help="questions per step")
    add("--mini-batch", type=int, default=4, help="questions per optimizer step")
    add("--max-tokens", type=int, default=40, help="longest completion")
    add("--learning-rate", type=float, default=5e-4, help="at the first step; falls linearly to 0")
    add("--kl-coef", type=float, default=0.02, help="penalty per nat of KL to the start")
    add("--eval-questions", type=int, default=400, help="held-out questions")
    add("--threads", type=int, default=1, help="CPU threads; the server needs the others")
    add("--seed", type=int, default=0, help="seed of the questions and of sampling")
    args = parser.parse_args()
    try:
        with Server(args.url) as server:
            train(args, server)
    except KeyboardInterrupt:
        print("minimal_ppo: interrupted", file=sys.stderr)
        return 130
    except ExampleError as error:
        print(f"minimal_ppo: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
