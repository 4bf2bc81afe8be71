"""A trainer that can be killed and started again, and checks of what must be true of its run in the end."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE, adapter_name
from trainer.data.sources import load_records
from trainer.data.word_problems import Split
from trainer.io.run_layout import ADAPTERS_FOLDER
from trainer.replay.verify import verify
from trainer.run_state.journal_reader import JournalReader

QUESTIONS_PER_STEP = 2


class TrainerProcess:
    """``python -m trainer train`` over one epoch of a few questions; every start has the same flags."""

    def __init__(self, url: str, base: Path, run: Path, *, num_steps: int, **options: str):
        self.run = run
        self.num_steps = num_steps
        self.num_questions = num_steps * QUESTIONS_PER_STEP
        settings = {
            "policy.base_model": str(base),
            "policy.lora_rank": "4",
            "server.url": url,
            "run.folder": str(run),
            "run.num_steps": str(num_steps),
            "run.checkpoint_every": "3",
            "run.num_threads": "1",
            "data.num_questions": str(self.num_questions),
            "rollout.questions_per_step": str(QUESTIONS_PER_STEP),
            "rollout.max_tokens": "12",
            "rollout.seed": "3",
            "ppo.learning_rate": "1e-3",
            "ppo.critic_warmup_steps": "0",
            "ppo.questions_per_mini_batch": "1",
            **options,
        }
        words = [word for key, value in settings.items() for word in (f"--{key}", value)]
        self.command = [sys.executable, "-m", "trainer", "train", *words]
        self.log = run.with_name(run.name + ".log")

    @contextmanager
    def started(self, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Starts the trainer, which runs within the block and is killed afterwards."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.command,
                **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **options},
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def finish(self, *, timeout_s: float = 600) -> None:
        """Run it to its end."""
        with self.started() as process:
            assert process.wait(timeout_s) == 0, self.tail()

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def events(self, name: str) -> list[str]:
        """Lines of the log that say that something happened."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if line.startswith(f"event={name} ")]

    def rows(self) -> list[dict[str, float]]:
        """The whole lines of the metrics: the run may be writing the next one."""
        path = self.run / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def groups(self) -> list[dict[str, Any]]:
        """Every group of every step's rollouts."""
        return [
            json.loads(line)
            for path in sorted((self.run / "rollouts").iterdir())
            for line in path.read_text().splitlines()
        ]

    def last_journaled_step(self) -> int:
        steps = [
            int(p.stem.rsplit("-", 1)[1]) for p in (self.run / "rollouts").glob("step-*.jsonl")
        ]
        return max(steps, default=0)

    def require_whole(self) -> None:
        """Checks that every step and every question occurs once, and that no file is torn."""
        assert [row["step"] for row in self.rows()] == list(range(1, self.num_steps + 1))
        assert sorted(path.name for path in (self.run / "rollouts").iterdir()) == [
            f"step-{step:06d}.jsonl" for step in range(1, self.num_steps + 1)
        ]
        groups = self.groups()
        steps = Counter(group["step"] for group in groups)
        assert steps == dict.fromkeys(range(1, self.num_steps + 1), QUESTIONS_PER_STEP)
        records = load_records("word-problems", Split.TRAIN, num_records=self.num_questions)
        assert Counter(group["id"] for group in groups) == Counter(r.id for r in records)
        for group in groups:
            for arm in group["arm_outputs"]:
                assert len(arm["token_ids"]) == len(arm["sampler_logprobs"]) >= 1
        self.require_no_torn_file()

    def require_replayed(self) -> None:
        """Checks that ``trainer replay RUN --verify`` recomputes the same adapters, up to the last one that was served."""
        said: list[str] = []
        assert verify(self.run, from_step=0, stop_at_first=True, say=said.append), said
        last = JournalReader(self.run).adapters[-1]
        assert last.step == self.num_steps
        weights = self.run / ADAPTERS_FOLDER / adapter_name(last.version) / ADAPTER_WEIGHTS_FILE
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == last.sha256

    def require_no_torn_file(self) -> None:
        """Checks that every file under its final name is whole."""
        for path in self.run.rglob("*.jsonl"):
            for line in path.read_bytes().splitlines(keepends=True):
                assert line.endswith(b"\n"), path
                json.loads(line)
        for manifest in self.run.glob("checkpoints/step-??????/manifest.json"):
            files: Mapping[str, Mapping[str, Any]] = json.loads(manifest.read_text())["files"]
            for name, expected in files.items():
                data = (manifest.parent / name).read_bytes()
                assert hashlib.sha256(data).hexdigest() == expected["sha256"], manifest
        for folder in self.run.glob("checkpoints/step-??????"):
            assert (folder / "manifest.json").exists(), folder
