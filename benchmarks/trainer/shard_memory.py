"""Memory of a rank with a base that `policy.shard_base` divides, at rest and while computing; see benchmarks/README.md.

Writes a random base of 48 layers if there is none, and runs on a CPU. glibc keeps freed memory unless it is told not to:

    export MALLOC_TRIM_THRESHOLD_=0 MALLOC_MMAP_THRESHOLD_=65536
    torchrun --standalone --nproc-per-node 2 -m benchmarks.trainer.shard_memory
"""

import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.arguments import benchmark_parser
from trainer.config.sections import PolicyConfig
from trainer.model.base_model import load_base
from trainer.ranks.process_group import joined_ranks

NUM_TOKENS = 1
"""So few that what is kept for the backward pass does not count: 32 tokens keep 1.4 MiB per layer."""
SAMPLE_EVERY_S = 0.001
MIB = 2**20


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/shard_memory/base"))
    folder: Path = parser.parse_args().folder
    torch.set_num_threads(1)
    with joined_ranks("cpu") as ranks:
        small = folder.with_name("small")
        if ranks.rank == 0 and not (folder / "config.json").is_file():
            write_base(folder, num_layers=48)
            write_base(small, num_layers=2)
        dist.barrier()
        # Modules and buffers that a process needs only once must not count as the base's.
        measured(small)
        print(f"rank {ranks.rank}: {measured(folder)}", flush=True)


def write_base(folder: Path, *, num_layers: int) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=num_layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def measured(folder: Path) -> str:
    """Load a base, and run one forward and one backward pass; returns the sizes as text."""
    with Peak() as peak:
        base = load_base(
            PolicyConfig(base_model=str(folder), dtype="float32", shard_base=True),
            torch.device("cpu"),
        )
        held_bytes = anonymous_bytes() - peak.start_bytes
        token_ids = torch.arange(NUM_TOKENS).unsqueeze(0)
        states = base.model.embed_tokens(token_ids).requires_grad_()
        base.model(inputs_embeds=states, use_cache=False)[0].sum().backward()
    whole_bytes = sum(p.numel() * p.element_size() for p in base.parameters())
    return (
        f"base {whole_bytes / MIB:.0f} MiB, held {held_bytes / MIB:.0f} ({held_bytes / whole_bytes:.2f}), "
        f"at most {peak.bytes / MIB:.0f} ({peak.bytes / whole_bytes:.2f})"
    )


class Peak:
    """The peak of this process's anonymous memory within a block, above what it had at the start."""

    def __enter__(self) -> "Peak":
        self.start_bytes = self._largest = anonymous_bytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def bytes(self) -> int:
        return self._largest - self.start_bytes

    def _watch(self) -> None:
        while not self._ended.is_set():
            self._largest = max(self._largest, anonymous_bytes())
            time.sleep(SAMPLE_EVERY_S)


def anonymous_bytes() -> int:
    """Resident memory that belongs to no file: RssAnon of proc(5)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return int(found) * 1024


if __name__ == "__main__":
    main()
