"""A PPO step beside what it stands on, on one device; see benchmarks/README.md.

On completions that the tiny model samples for the eight arms: experience and update (a) as the trainer does
them, (b) with the length-sorted padded rows that it used to have, and (c) their floor, the bare forward and
backward passes of a plain PEFT model over the same rows. Then the update against the length of sequences and
the number of questions, and the peak memory of a logprob pass against the vocabulary.

    python -m benchmarks.trainer.ppo_step --model models/tiny-base
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from regime_w import ArmSpec, build_all_arms, build_prompt
from trainer.config.sections import PolicyConfig, PPOConfig
from trainer.data.sources import load_records
from trainer.data.word_problems import Split
from trainer.model.batches.batch import MicroBatch, Sample, SampledTokens, TokenRows, micro_batches
from trainer.model.nuclei import Nucleus
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo import scoring as trainer_scoring
from trainer.ppo.experience import MiniBatch
from trainer.ppo.update import PPOUpdate

CPU = torch.device("cpu")
ARMS = build_all_arms()
CONFIG = PPOConfig()
Groups = list[list[Sample]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--model", type=Path, default=Path("models/tiny-base"))
    parser.add_argument("--rounds", type=int, default=7, help="repetitions of each [%(default)s]")
    parser.add_argument("--num-threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parts", default="step,shape,memory", help="[%(default)s]")
    # Memory is measured in processes of their own.
    parser.add_argument("--vocabulary", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.vocabulary is not None:
        measure_memory(arguments.vocabulary)
        return
    parts = arguments.parts.split(",")
    if "step" in parts:
        groups = sampled_groups(arguments.model, num_questions=16)
        for num_threads in arguments.num_threads:
            torch.set_num_threads(num_threads)
            compare(arguments.model, groups, rounds=arguments.rounds)
    if "shape" in parts:
        torch.set_num_threads(arguments.num_threads[-1])
        for num_questions in (4, 16, 64):
            groups = synthetic_groups(num_questions, num_prompt=40, num_completion=20)
            compare(arguments.model, groups, rounds=3)
        for length in (128, 384):
            groups = synthetic_groups(8, num_prompt=length // 2, num_completion=length // 2)
            compare(arguments.model, groups, rounds=3)
    if "memory" in parts:
        for vocabulary in (512, 150_000):
            # Freed memory goes back to the system at once, so that a peak is what was in use.
            environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
            command = [sys.executable, __file__, "--vocabulary", str(vocabulary)]
            subprocess.run(command, env=environment, check=True)


# --- what is compared ----------------------------------------------------------------------------


def compare(model: Path, groups: Groups, *, rounds: int) -> None:
    """Time trainer, padding and floor in turn, so that a busy machine slows all of them."""
    roles = random_roles(model)
    update = PPOUpdate(roles, CONFIG)
    mini_batches = update.experience(groups, seed="0")
    rows = [e.batch.rows for mini_batch in mini_batches for e in mini_batch]
    padded = with_padding(update, groups)
    floor = floor_model(model)
    times = in_turn(
        {
            "experience": lambda: update.experience(groups, seed="0"),
            "experience, floor": lambda: [forward(floor, r) for r in rows for _ in range(3)],
            "experience, padded": lambda: with_padding(update, groups),
            "update": lambda: update.step(mini_batches, train_policy=True),
            "update, floor": lambda: backward(floor, [*rows, *rows]),
            "update, padded": lambda: update.step(padded, train_policy=True),
        },
        rounds,
    )
    samples = [sample for group in groups for sample in group]
    num_tokens = sum(len(s.prompt_ids) + len(s.completion_ids) for s in samples)
    print(
        f"\n{len(samples)} completions, {num_tokens} tokens, "
        f"{sum(r.token_ids.numel() for r in rows)} in rows, "
        f"{sum(e.batch.num_tokens for m in padded for e in m)} padded; "
        f"{torch.get_num_threads()} threads"
    )
    for part in ("experience", "update"):
        ours, bare, old = (times[part + name] for name in ("", ", floor", ", padded"))
        print(
            f"{part:10}  {1e3 * ours:7.1f} ms  {num_tokens / ours:8.0f} tokens/s  "
            f"floor {1e3 * bare:7.1f} ms = {bare / ours:.2f} of it  "
            f"padded {1e3 * old:7.1f} ms = {old / ours:.2f} x",
            flush=True,
        )
    print(f"experience + update  {1e3 * (times['experience'] + times['update']):.0f} ms")


def with_padding(update: PPOUpdate, groups: Groups) -> list[MiniBatch]:
    with patch.object(trainer_scoring, "micro_batches", padded_micro_batches):
        return update.experience(groups, seed="0")


def in_turn(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, run in work.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def floor_model(model: Path) -> torch.nn.Module:
    """The body of the same base with one adapter of the same shape, as PEFT makes it."""
    config = PolicyConfig()
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=list(config.target_modules),
        task_type="CAUSAL_LM",
    )
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    body: torch.nn.Module = get_peft_model(base, lora).eval().get_base_model().model
    return body


def backward(body: torch.nn.Module, batches: Sequence[TokenRows]) -> None:
    for rows in batches:
        hidden(body, rows).sum().backward()


@torch.no_grad()
def forward(body: torch.nn.Module, rows: TokenRows) -> None:
    hidden(body, rows)


def hidden(body: torch.nn.Module, rows: TokenRows) -> Tensor:
    states: Tensor = body(
        input_ids=rows.token_ids,
        position_ids=rows.position_ids,
        attention_mask=rows.attention_mask,
        use_cache=False,
    )[0]
    return states


def padded_micro_batches(
    samples: Sequence[Sample], *, token_budget: int, device: torch.device, **_: int
) -> list[MicroBatch]:
    """Rows sorted by length and padded on the right; nothing is shared."""
    ordered = sorted(samples, key=lambda s: len(s.prompt_ids) + len(s.completion_ids))
    batches: list[MicroBatch] = []
    rows: list[Sample] = []
    for sample in ordered:
        if rows and len(sample.prompt_ids + sample.completion_ids) * (len(rows) + 1) > token_budget:
            batches.append(padded_batch(rows, device))
            rows = []
        rows.append(sample)
    return [*batches, padded_batch(rows, device)]


def padded_batch(rows: list[Sample], device: torch.device) -> MicroBatch:
    ids = [torch.tensor(row.prompt_ids + row.completion_ids) for row in rows]
    token_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    lengths = torch.tensor([len(row.completion_ids) for row in rows])
    prompts = torch.tensor([len(row.prompt_ids) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    steps = torch.arange(mask.shape[1] + 1)
    starts = torch.arange(len(rows)) * token_ids.shape[1] + prompts - 1
    states = starts.unsqueeze(1) + torch.minimum(steps, lengths.unsqueeze(1))
    settings = torch.tensor([(row.temperature, row.top_p) for row in rows])
    temperature, top_p = settings.repeat_interleave(lengths, dim=0).unbind(dim=1)
    sampled_index = torch.zeros(mask.shape, dtype=torch.long)
    sampled_index[mask] = torch.arange(int(mask.sum()))
    sampler_logprobs = torch.zeros(mask.shape)
    sampler_logprobs[mask] = torch.tensor([x for row in rows for x in row.sampler_logprobs])
    return MicroBatch(
        rows=TokenRows(
            token_ids=token_ids,
            position_ids=torch.arange(token_ids.shape[1]).expand_as(token_ids),
            subtree_ends=torch.full_like(token_ids, token_ids.shape[1]),
        ),
        states=states,
        sampled=SampledTokens(
            states=states[:, :-1][mask],
            token_ids=torch.tensor([token for row in rows for token in row.completion_ids]),
            temperature=temperature,
            top_p=top_p,
            num_restricted=int((top_p < 1).sum()),
        ),
        sampled_index=sampled_index,
        mask=mask,
        sampler_logprobs=sampler_logprobs,
        rewards=torch.tensor([row.reward for row in rows]),
        terminal=torch.tensor([not row.truncated for row in rows]),
        indices=tuple(range(len(rows))),
        samples=tuple(rows),
    )


# --- data ------------------------------------------------------------------------------------------


def random_roles(model: Path) -> PolicyRoles:
    torch.manual_seed(0)
    roles = PolicyRoles(PolicyConfig(base_model=str(model)), device=CPU, serve_dtype=torch.float32)
    with torch.no_grad():
        for role in (Role.POLICY, Role.PROXIMAL, Role.CRITIC):
            for parameter in roles.adapter_parameters(role):
                parameter.add_(1e-3 * torch.randn_like(parameter))
    return roles


def sampled_groups(model: Path, *, num_questions: int) -> Groups:
    """What the base model answers in all arms."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(model)
    records = load_records("word-problems", Split.TRAIN, num_records=num_questions)
    groups: Groups = [[] for _ in records]
    for arm in ARMS:
        prompts = [build_prompt(arm.system_prompt, record.question) for record in records]
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        sequences = policy.generate(
            **batch,
            do_sample=True,
            temperature=arm.temperature,
            top_p=arm.top_p,
            top_k=0,
            max_new_tokens=40,
            pad_token_id=tokenizer.pad_token_id,
        )
        for group, prompt, sequence in zip(groups, prompts, sequences, strict=True):
            completion = sequence[batch.input_ids.shape[1] :].tolist()
            ended = tokenizer.eos_token_id in completion
            if ended:
                completion = completion[: completion.index(tokenizer.eos_token_id) + 1]
            group.append(sample_of(tokenizer(prompt).input_ids, completion, arm, not ended))
    return groups


def synthetic_groups(num_questions: int, *, num_prompt: int, num_completion: int) -> Groups:
    """Random tokens: prompts shared by a family's arms, completions by half of their beginning."""
    rng = random.Random(0)
    groups: Groups = []
    for _ in range(num_questions):
        prompts = {arm.system_prompt: rng.choices(range(500), k=num_prompt) for arm in ARMS}
        starts = {p: rng.choices(range(500), k=num_completion // 2) for p in prompts}
        groups.append(
            [
                sample_of(
                    prompts[arm.system_prompt],
                    starts[arm.system_prompt]
                    + rng.choices(range(500), k=num_completion - num_completion // 2),
                    arm,
                    False,
                )
                for arm in ARMS
            ]
        )
    return groups


def sample_of(prompt: list[int], completion: list[int], arm: ArmSpec, truncated: bool) -> Sample:
    return Sample(
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        sampler_logprobs=(-1.0,) * len(completion),
        temperature=arm.temperature,
        top_p=arm.top_p,
        reward=float(len(completion) % 3),
        truncated=truncated,
        version=0,
    )


# --- memory ----------------------------------------------------------------------------------------


def measure_memory(vocabulary: int) -> None:
    """Print the peak of the passes on a random model with sharp distributions."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        initializer_range=0.5,
    )
    with tempfile.TemporaryDirectory() as folder:
        Qwen2ForCausalLM(config).save_pretrained(folder)
        roles = random_roles(Path(folder))
    samples = [s for g in synthetic_groups(16, num_prompt=40, num_completion=20) for s in g]
    (arms,) = micro_batches(samples, token_budget=8192, hidden_size=128, device=CPU)
    (everything,) = micro_batches(
        [replace(s, top_p=1.0) for s in samples], token_budget=8192, hidden_size=128, device=CPU
    )
    with torch.no_grad():
        nucleus_mask = roles.token_logprobs(Role.PROXIMAL, arms).nucleus_mask
    kept = sum(len(n.token_ids) for n in nucleus_mask) / len(arms.sampled.token_ids)
    print(f"vocabulary {vocabulary}, {kept:.1f} tokens a nucleus: peak of", flush=True)

    def proximal(batch: MicroBatch) -> None:
        with torch.no_grad():
            roles.token_logprobs(Role.PROXIMAL, batch)

    def policy(batch: MicroBatch, nucleus_mask: Sequence[Nucleus] | None) -> None:
        roles.token_logprobs(Role.POLICY, batch, nucleus_mask).logprobs.sum().backward()
        roles.zero_grad(set_to_none=True)

    passes: dict[str, Callable[[], None]] = {
        "proximal, finds nuclei": lambda: proximal(arms),
        "policy, replays them": lambda: policy(arms, nucleus_mask),
        "policy, top_p = 1": lambda: policy(everything, None),
    }
    for name, run in passes.items():
        settled = reset_peak_mib()
        run()
        print(f"  {name:22} {peak_mib() - settled:7.1f} MiB", flush=True)


def reset_peak_mib() -> float:
    """Forget the peak so far; returns what is in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_mib("VmRSS")


def peak_mib() -> float:
    return status_mib("VmHWM")


def status_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main()
