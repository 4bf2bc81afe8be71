"""The peak memory of a logprob pass for a size of vocabulary."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.trainer.ppo_step_data import CPU, random_roles, synthetic_groups
from trainer.model.batches.batch import MicroBatch, micro_batches
from trainer.model.nuclei import Nucleus
from trainer.model.roles import Role


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
        nuclei = roles.token_logprobs(Role.PROXIMAL, arms).nuclei
    kept = sum(len(n.token_ids) for n in nuclei) / len(arms.sampled.token_ids)
    print(f"vocabulary {vocabulary}, {kept:.1f} tokens a nucleus: peak of", flush=True)

    def proximal(batch: MicroBatch) -> None:
        with torch.no_grad():
            roles.token_logprobs(Role.PROXIMAL, batch)

    def policy(batch: MicroBatch, nuclei: Sequence[Nucleus] | None) -> None:
        roles.token_logprobs(Role.POLICY, batch, nuclei).logprobs.sum().backward()
        roles.zero_grad(set_to_none=True)

    passes: dict[str, Callable[[], None]] = {
        "proximal, finds nuclei": lambda: proximal(arms),
        "policy, replays them": lambda: policy(arms, nuclei),
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
