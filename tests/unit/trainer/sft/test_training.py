"""SFT on the tiny base: what it learns from, what it goes on from, and what comes out."""

import json
import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.trainer.utils
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoTokenizer, TrainerControl, TrainerState, TrainingArguments
from trl.kernels import chunked_logprob

from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.prompts import PromptRenderer
from regime_w import ArmSpec, build_prompt
from tests.unit.chat_tokenizers import FAMILIES, make_tokenizer
from trainer.commands import early_checks
from trainer.config.sections import DataConfig, PolicyConfig, SFTRunConfig, TrainConfig
from trainer.console import trackers
from trainer.console.metric_catalog import SFT_METRICS
from trainer.data.sources import Record
from trainer.errors import DataError, NonFiniteError, UsageError
from trainer.io.kept_settings import as_toml
from trainer.model.adapter import first_not_finite
from trainer.model.base_model import load_base
from trainer.report.facts import is_running
from trainer.report.page import live_html
from trainer.sft import training
from trainer.sft.callbacks import FiniteCallback, ProgressCallback
from trainer.sft.examples import load_data, sft_examples, within_context
from trainer.sft.training import run_sft

CPU = torch.device("cpu")
FAST = {"num_examples": 24, "batch_size": 4, "num_evaluation_examples": 4, "evaluate_every": 3}


def config(base: Path, output: Path, **settings: Any) -> SFTRunConfig:
    policy = {"base_model": str(base), "lora_rank": 4, "lora_alpha": 8}
    return SFTRunConfig.model_validate(
        {"policy": policy, "output": output, "device": "cpu", "sft": {**FAST, **settings}}
    )


def train(asked: SFTRunConfig, *, killed_at: int | None = None) -> list[str]:
    """Runs SFT, which may be killed right after a step; returns the lines that it printed."""
    said: list[str] = []

    class Killed(BaseException):
        pass

    def on_step(step: int, num_steps: int, loss: float) -> None:
        if step == killed_at:
            raise Killed

    try:
        run_sft(asked, on_step, said.append)
    except Killed:
        assert not (asked.output / "adapter_model.safetensors").exists()
    else:
        assert killed_at is None
    return said


def metrics(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


SINCE_THE_LINE_BEFORE = {"loss", "mean_token_accuracy", "entropy"}


def without_means(output: Path) -> list[dict[str, float]]:
    """The lines, without their times, and without what is a mean over the steps since the line before."""
    left_out = {"time", "time/step_s", *SINCE_THE_LINE_BEFORE}
    rows = metrics(output)
    return [{name: value for name, value in row.items() if name not in left_out} for row in rows]


def logged(output: Path) -> list[tuple[int, dict[str, float]]]:
    """What a tracker must have."""
    return [
        (int(row.pop("step")), {name: row[name] for name in row if name in SFT_METRICS})
        for row in metrics(output)
    ]


class Recording:
    """A tracker that keeps what it is given over the starts of an SFT, and cannot remove any of it."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.is_open = False

    def make(self, folder: Path, first_step: int) -> "Recording":
        return self

    def begin(self) -> None:
        self.is_open = True

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.points.append((step, dict(metrics)))

    def close(self) -> None:
        self.is_open = False


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    recording = Recording()
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", recording.make)
    return recording


def in_tensorboard(output: Path) -> list[tuple[int, str]]:
    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    return [
        (event.step, name) for name in events.Tags()["scalars"] for event in events.Scalars(name)
    ]


@pytest.fixture
def trained(tiny_base: Path, tmp_path: Path) -> Path:
    train(config(tiny_base, tmp_path / "whole"))
    return tmp_path / "whole"


def test_the_adapter_is_what_peft_and_vllm_load(trained: Path, tiny_base: Path) -> None:
    settings = json.loads((trained / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_dropout"], settings["modules_to_save"]) == (4, 0, None)
    assert not settings["use_dora"]
    model = PeftModel.from_pretrained(
        load_base(PolicyConfig(base_model=str(tiny_base)), CPU), trained
    )
    weights = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert all(bool(p.abs().max() > 0) for p in weights)
    rows = metrics(trained)
    held_out = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert [row["step"] for row in rows if "eval_loss" in row] == [0, 3, 6]
    assert held_out[-1] < held_out[0]
    assert not (trained / "checkpoints").exists()
    assert {name for row in rows for name in row} == {"step", "num_steps", "time", *SFT_METRICS}
    assert {row["num_steps"] for row in rows} == {6}
    assert all(row["grad_norm"] > 0 for row in rows if "loss" in row)
    times = [row["time"] for row in rows]
    assert times == sorted(times)
    assert sorted(in_tensorboard(trained)) == sorted(
        (step, name) for step, row in logged(trained) for name in row
    )


def test_trl_is_as_it_was_once_the_training_is_done(trained: Path) -> None:
    assert trl.trainer.utils._use_triton is chunked_logprob._use_triton


def test_a_killed_run_goes_on_to_the_same_weights(
    trained: Path, tiny_base: Path, tmp_path: Path, recording: Recording
) -> None:
    asked = config(tiny_base, tmp_path / "killed", checkpoint_every=2)
    asked = asked.model_copy(update={"trackers": ("tensorboard", "mlflow")})
    # The first start is killed before it has a checkpoint, so that the second one is from the beginning too.
    train(asked, killed_at=1)
    train(asked, killed_at=5)
    assert not recording.is_open
    before = recording.points.copy()
    assert [step for step, _ in before] == [0, 1, 3, 5]
    assert "resuming from" not in " ".join(train(config(tiny_base, tmp_path / "x", num_examples=4)))
    # A checkpoint that was being written counts for nothing.
    (asked.output / "checkpoints/checkpoint-99").mkdir()
    assert any("checkpoint-4" in line for line in train(asked))
    whole, resumed = (
        load_file(folder / "adapter_model.safetensors") for folder in (trained, asked.output)
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    # The training loss is a mean since the line before, some of which the kill has taken along.
    assert without_means(asked.output) == without_means(trained)
    # TensorBoard has the new values of the steps that were repeated, and the other trackers keep the first.
    assert sorted(in_tensorboard(asked.output)) == sorted(in_tensorboard(trained))
    assert not recording.is_open
    assert recording.points == [*before, *(each for each in logged(asked.output) if each[0] > 5)]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_step_with_a_checkpoint_of_it(
    sent: signal.Signals,
    trained: Path,
    tiny_base: Path,
    tmp_path: Path,
    recording: Recording,
) -> None:
    asked, said = config(tiny_base, tmp_path / "stopped"), list[str]()
    asked = asked.model_copy(update={"trackers": ("mlflow",)})
    before = signal.getsignal(sent)

    def on_step(step: int, num_steps: int, loss: float) -> None:
        if step == 1:
            os.kill(os.getpid(), sent)

    assert run_sft(asked, on_step, said.append) is None
    assert signal.getsignal(sent) is before
    assert (recording.is_open, recording.points) == (False, logged(asked.output))
    assert not (asked.output / "tensorboard").exists()
    (line,) = (line for line in said if line.startswith("stopped"))
    # TRL logs a step once it has ended, so the signal comes in the next one.
    assert line == "stopped at step 2/6; the same command resumes there"
    assert not (asked.output / "adapter_model.safetensors").exists()
    assert any("checkpoint-2" in line for line in train(asked))
    whole, resumed = (
        load_file(folder / "adapter_model.safetensors") for folder in (trained, asked.output)
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert without_means(asked.output) == without_means(trained)
    assert recording.points == logged(asked.output)


def test_a_start_that_is_refused_for_its_data_binds_nothing(
    tiny_base: Path, tmp_path: Path
) -> None:
    wrong, right = tmp_path / "wrong.jsonl", tmp_path / "right.jsonl"
    wrong.write_text('{"question": "q", "answer": "none"}\n')
    rows = [{"question": f"{i} + 1?", "answer": f"It is {i + 1}. #### {i + 1}"} for i in range(40)]
    right.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = config(tiny_base, tmp_path / "sft", num_evaluation_examples=0)

    def from_file(path: Path) -> SFTRunConfig:
        return asked.model_copy(update={"data": DataConfig(source=str(path))})

    with pytest.raises(DataError, match=r"wrong\.jsonl:1: "):
        train(from_file(wrong))
    train(from_file(right))
    assert (asked.output / "adapter_model.safetensors").exists()


def test_a_second_sft_in_the_folder_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    asked, refused, said = config(tiny_base, tmp_path / "sft"), list[str](), list[str]()

    def on_step(step: int, num_steps: int, loss: float) -> None:
        if step == 1:
            with pytest.raises(UsageError) as caught:
                run_sft(asked, on_step, said.append)
            refused.append(str(caught.value))
            assert is_running(asked.output)

    assert run_sft(asked, on_step, said.append) == asked.output
    assert refused == [
        f"another `sft` is at work in {asked.output}; stop it, or choose another output"
    ]
    assert (asked.output / "adapter_model.safetensors").exists()
    assert is_running(asked.output) is False
    # What adapters are published with has no lock in it.
    assert not (asked.output / ".lock").exists()


def test_the_folder_of_a_run_takes_no_adapter(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(as_toml(TrainConfig()))
    with pytest.raises(UsageError, match=r"output: .* is the folder of a run; choose another"):
        early_checks.check_sft(config(tiny_base, tmp_path))


def test_a_finished_adapter_is_left_as_it_is(
    trained: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = trained / "adapter_model.safetensors"
    assert "step 6 of 6 · finished" in live_html(trained, "state")
    written = weights.stat().st_mtime_ns
    assert train(config(tiny_base, trained))[-1].startswith(f"{trained} is finished")
    # Its demonstrations may be gone by then.
    gone = DataConfig(source=str(tmp_path / "gone.jsonl"))
    early_checks.check_sft(config(tiny_base, trained).model_copy(update={"data": gone}))
    with pytest.raises(UsageError, match="no file that exists"):
        early_checks.check_sft(config(tiny_base, tmp_path).model_copy(update={"data": gone}))
    monkeypatch.setattr(trackers, "is_installed", lambda name: False)
    tracked = config(tiny_base, tmp_path).model_copy(update={"trackers": ("wandb",)})
    with pytest.raises(UsageError, match=r"^run\.trackers or --trackers: wandb is not"):
        early_checks.check_sft(tracked)
    assert weights.stat().st_mtime_ns == written
    with pytest.raises(UsageError, match=r"sft\.learning_rate was 0\.0002 and is 0\.1"):
        train(config(tiny_base, trained, learning_rate=0.1))
    (trained / "config.toml").unlink()
    with pytest.raises(UsageError, match="holds an adapter already"):
        train(config(tiny_base, trained))
    assert weights.stat().st_mtime_ns == written


def test_checkpoints_of_other_settings_are_not_gone_on_with(
    tiny_base: Path, tmp_path: Path
) -> None:
    train(config(tiny_base, tmp_path / "killed"), killed_at=5)
    with pytest.raises(UsageError, match=r"sft\.learning_rate was 0\.0002 and is 0\.1"):
        train(config(tiny_base, tmp_path / "killed", learning_rate=0.1))


def test_a_training_that_diverges_ends_with_an_error_and_leaves_what_is_finite(
    tiny_base: Path, tmp_path: Path
) -> None:
    asked = config(tiny_base, tmp_path / "diverged", learning_rate=1e6, checkpoint_every=1)
    for _ in range(2):
        with pytest.raises(
            NonFiniteError, match=r"step \d: .*; .*lower sft\.learning_rate = 1e\+06"
        ):
            train(asked)
        assert not (asked.output / "adapter_model.safetensors").exists()
        saved = list(asked.output.glob("checkpoints/checkpoint-*/adapter_model.safetensors"))
        assert saved
        assert not any(first_not_finite(load_file(weights)) for weights in saved)
        rows = metrics(asked.output)
        assert all(math.isfinite(value) for row in rows for value in row.values())


@pytest.mark.parametrize(
    ("step", "logs", "weight", "words"),
    [
        (7, {"loss": math.nan}, 1.0, "step 7: the loss is nan; .*lower sft.learning_rate = 0.5"),
        (7, {"eval_loss": math.inf}, 1.0, "step 7: the held-out loss is inf; .*learning_rate"),
        (0, {"eval_loss": math.nan}, 1.0, "step 0: the held-out .*policy.dtype = float16; take"),
        (7, {"loss": 1.0}, -math.inf, "step 7: the adapter has weights that are not finite; "),
        (7, {"loss": 1.0}, math.nan, "step 7: the adapter has weights that are not finite; "),
        (7, {"loss": 1e30, "eval_loss": 2.0}, 3e38, None),
    ],
)
def test_what_is_not_finite_is_named(
    step: int,
    logs: dict[str, float],
    weight: float,
    words: str | None,
    tmp_path: Path,
) -> None:
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, weight)
    callback, state = FiniteCallback(0.5, "float16"), TrainerState(global_step=step)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)

    def check() -> None:
        callback.on_log(arguments, state, TrainerControl(), logs=logs)
        callback.on_step_end(arguments, state, TrainerControl(), model=model)

    if words is None:
        check()
        return
    with pytest.raises(NonFiniteError, match=words):
        check()


def second(first: Path, base: Path, output: Path, **settings: Any) -> SFTRunConfig:
    """A second SFT, from the adapter of a first one."""
    asked = config(base, output, **settings)
    # The adapter's shape is its own.
    policy = asked.policy.model_copy(update={"adapter": first, "lora_rank": 8})
    return asked.model_copy(update={"policy": policy})


def are_equal(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("on", [{}, {"dtype": "bfloat16"}, {"quantization": "nf4"}])
def test_a_second_sft_without_a_rate_gives_the_first_ones_adapter_back(
    on: dict[str, str], trained: Path, tiny_base: Path, tmp_path: Path
) -> None:
    asked = second(trained, tiny_base, tmp_path / "second")
    policy = asked.policy.model_copy(update=on)
    options = asked.sft.model_copy(update={"learning_rate": 0.0})
    said = train(asked.model_copy(update={"policy": policy, "sft": options}))
    assert f"starting from {trained}" in said
    assert are_equal(asked.output, trained)


def test_a_second_sft_goes_on_from_the_first(
    trained: Path, tiny_base: Path, tmp_path: Path
) -> None:
    asked = second(trained, tiny_base, tmp_path / "second", checkpoint_every=2)
    alone = asked.policy.model_copy(update={"adapter": None, "lora_rank": 4})
    fresh = asked.model_copy(update={"policy": alone, "output": tmp_path / "fresh"})
    for each in (asked, fresh):
        train(each)
    assert not are_equal(asked.output, trained)
    assert not are_equal(asked.output, fresh.output)
    assert metrics(asked.output)[0]["eval_loss"] == metrics(trained)[-1]["eval_loss"]

    killed = asked.model_copy(update={"output": tmp_path / "killed"})
    moved = tmp_path / "moved"
    train(killed, killed_at=1)
    other = killed.policy.model_copy(update={"adapter": moved})
    with pytest.raises(UsageError, match=r"policy\.adapter was .*whole and is .*moved"):
        train(killed.model_copy(update={"policy": other}))
    # From its first checkpoint on it has a copy of the adapter.
    assert f"starting from {trained}" in train(killed, killed_at=5)
    trained.rename(moved)
    assert any("resuming from" in line for line in train(killed))
    assert are_equal(killed.output, asked.output)


def test_an_adapter_to_start_from_that_is_none_is_refused_at_once(
    tiny_base: Path, tmp_path: Path
) -> None:
    asked = second(tmp_path / "gone", tiny_base, tmp_path / "second")
    with pytest.raises(
        UsageError, match=r"policy\.adapter .*gone: there is no .*--policy\.adapter null"
    ):
        early_checks.check_sft(asked)
    # One file names an adapter for SFT to write and for PPO to start from.
    early_checks.check_sft(second(asked.output, tiny_base, asked.output))


def test_an_adapter_that_was_being_written_is_written_again(
    trained: Path, tiny_base: Path, tmp_path: Path
) -> None:
    asked = config(tiny_base, tmp_path / "torn", checkpoint_every=2)
    train(asked, killed_at=5)
    weights = asked.output / "adapter_model.safetensors"
    weights.write_bytes(b"half")
    train(asked)
    assert load_file(weights).keys() == load_file(trained / weights.name).keys()


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (
            {},
            "no held-out loss is measured: data.evaluation_source names no held-out questions for",
        ),
        ({"evaluation_source": "word-problems"}, None),
        ({"evaluation_source": "bare.jsonl"}, "warning: 2 of 2 held-out demonstrations are an"),
    ],
)
def test_the_held_out_loss_is_of_demonstrations_that_say_something(
    named: dict[str, str],
    said: str | None,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, answer in (("mine", "2 * 3 = 6\n#### 6"), ("bare", "6")):
        rows = [json.dumps({"question": f"{name} {i}?", "answer": answer}) for i in range(2)]
        Path(f"{name}.jsonl").write_text("\n".join(rows))
    asked = config(tiny_base, tmp_path / "sft")
    data = DataConfig.model_validate({"source": "mine.jsonl", **named})
    lines = list[str]()
    asked = asked.model_copy(update={"data": data})
    training, held_out, _ = load_data(asked, tmp_path / "checkpoints", lines.append)
    assert (len(training), held_out is None) == (2, not named)
    about = [line for line in lines if "held-out loss" in line]
    assert len(about) == (said is not None)
    assert said is None or about[0].startswith(said)


@pytest.mark.parametrize(
    ("setting", "changed"), [("data.source", "mine"), ("data.evaluation_source", "held_out")]
)
def test_a_resume_with_other_demonstrations_says_so_once(
    setting: str, changed: str, tiny_base: Path, tmp_path: Path
) -> None:
    files = {name: tmp_path / f"{name}.jsonl" for name in ("mine", "held_out")}
    for name, file in files.items():
        rows = [{"question": f"{name} {i} * 3?", "answer": f"#### {3 * i}"} for i in range(24)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(source=str(files["mine"]), evaluation_source=str(files["held_out"]))
    asked = config(tiny_base, tmp_path / "sft", checkpoint_every=1).model_copy(
        update={"data": data}
    )

    def changes(*, killed_at: int | None) -> list[str]:
        return [line for line in train(asked, killed_at=killed_at) if "was changed since" in line]

    assert changes(killed_at=1) == []
    assert changes(killed_at=5) == []
    content = files[changed].read_text()
    files[changed].write_text(content.replace("#### 9", "It is 9. #### 9"))
    (line,) = changes(killed_at=5)
    assert line.startswith(f"warning: {setting} {files[changed]} was changed since this run's last")
    assert line.endswith("; the steps to come learn from what is there now")
    assert changes(killed_at=None) == []
    # The record goes with the checkpoints.
    assert not (asked.output / "checkpoints").exists()


def test_smaller_passes_come_to_the_same_steps(tiny_base: Path, tmp_path: Path) -> None:
    """Examples of different lengths weigh by their tokens, however the batch is cut."""
    options = {"num_examples": 8, "batch_size": 4, "evaluate_every": 2}
    whole = config(tiny_base, tmp_path / "whole", **options, token_budget=10_000)
    cut = config(tiny_base, tmp_path / "cut", **options, token_budget=1)
    assert [asked.sft.examples_per_pass(150) for asked in (whole, cut)] == [4, 1]
    train(whole)
    train(cut)
    first, second = (load_file(a.output / "adapter_model.safetensors") for a in (whole, cut))
    for name, weights in first.items():
        torch.testing.assert_close(weights, second[name], atol=1e-5, rtol=0)


def test_packed_examples_do_not_see_each_other(tiny_base: Path, tmp_path: Path) -> None:
    """One row of all examples and a row for each come to the same gradient, so to the same step."""
    options = {"num_examples": 6, "batch_size": 6, "num_evaluation_examples": 0, "num_epochs": 1}
    apart, packed = (config(tiny_base, tmp_path / name, **options) for name in ("apart", "packed"))
    packed = packed.model_copy(
        update={
            "sft": packed.sft.model_copy(
                update={"packing": True, "batch_size": 1, "packed_row_tokens": 4096}
            )
        }
    )
    losses = []
    for asked in (apart, packed):
        run_sft(
            asked, lambda step, total, loss: losses.append((step, total, loss)), lambda line: None
        )
    assert [(step, total) for step, total, _ in losses] == [(1, 1), (1, 1)]
    assert losses[0][2] == pytest.approx(losses[1][2], abs=1e-5)
    first, second = (load_file(a.output / "adapter_model.safetensors") for a in (apart, packed))
    for name, weights in first.items():
        torch.testing.assert_close(weights, second[name], atol=1e-5, rtol=0)


# --- four bits -------------------------------------------------------------------------------------


def test_an_adapter_of_a_4_bit_base_is_float32_and_moves(tiny_base: Path, tmp_path: Path) -> None:
    asked = config(tiny_base, tmp_path / "qlora")
    policy = asked.policy.model_copy(update={"quantization": "nf4"})
    train(asked.model_copy(update={"policy": policy}))
    weights = load_file(tmp_path / "qlora/adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    held_out = [row["eval_loss"] for row in metrics(tmp_path / "qlora") if "eval_loss" in row]
    assert held_out[-1] < held_out[0]


@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
def test_demonstrations_are_trained_under_the_prompts_of_the_arms(
    prompt_format: PromptFormat, tiny_base: Path
) -> None:
    solo = ArmSpec(name="solo", system_prompt="Be brief.", temperature=0.7, top_p=1.0)
    demonstrations = [
        Record(id=str(i), question=f"{i}?", gold=f"<<{i}>>#### {i}") for i in range(3)
    ]
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    rows = sft_examples(demonstrations, (solo,), PromptRenderer(tokenizer), prompt_format, seed="x")
    for i, row in enumerate(rows):
        # The tiny model's template renders what `build_prompt` does, and ends turns with EOS alone.
        prompt = tokenizer(build_prompt("Be brief.", f"{i}?"))["input_ids"]
        answer = tokenizer(f"#### {i}")["input_ids"] + [tokenizer.eos_token_id]
        assert row["input_ids"] == prompt + answer
        assert row["completion_mask"] == [0] * len(prompt) + [1] * len(answer)


def test_demonstrations_beyond_the_context_are_left_out_with_a_line() -> None:
    rows = [{"input_ids": [1] * length, "completion_mask": [1] * length} for length in (3, 9, 4, 7)]
    examples, said = Dataset.from_list(rows), list[str]()
    assert within_context(examples, 9, said.append) is examples
    assert said == []
    kept = within_context(examples, 4, said.append)
    assert [len(row["input_ids"]) for row in kept] == [3, 4]
    (line,) = said
    assert line.startswith("data: 2 of 4 demonstrations left out, the longest of 9 tokens: ")
    assert "context of 4 of policy.base_model" in line
    with pytest.raises(DataError, match="4 of 4 demonstrations left out"):
        within_context(examples, 2, said.append)


@pytest.mark.parametrize(
    ("dtype", "autocast", "device", "bf16", "fp16"),
    [
        ("bfloat16", True, "cuda", True, False),
        ("float32", True, "cuda", True, False),
        ("float16", True, "cuda", False, True),
        ("float16", True, "cpu", False, False),
        ("float16", False, "cuda", False, False),
        ("bfloat16", False, "cpu", False, False),
    ],
)
def test_autocast_is_in_the_dtype_of_the_base(
    dtype: str,
    autocast: bool,
    device: str,
    bf16: bool,
    fp16: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "TrlConfig", lambda **given: given)
    asked = config(tmp_path, tmp_path / "sft")
    policy = asked.policy.model_copy(update={"dtype": dtype, "autocast": autocast})
    given: Any = training._trl_config(
        asked.model_copy(update={"policy": policy}),
        torch.device(device),
        examples_per_pass=1,
        evaluates=False,
        is_fresh=True,
    )
    assert (given["bf16"], given["fp16"]) == (bf16, fp16)


@pytest.mark.parametrize("given", ["auto", "plain"])
def test_a_template_that_cannot_be_used_is_said_where_prompts_are_plain_for_it(
    given: str, tmp_path: Path
) -> None:
    tokenizer, said = make_tokenizer(FAMILIES["chatml"]), list[str]()
    tokenizer.chat_template = "{{ 1 / 0 }}"
    asked = config(tmp_path, tmp_path / "sft").model_copy(update={"prompt_format": given})
    settled = training._without_auto(asked, PromptRenderer(tokenizer), CPU, said.append)
    assert settled.prompt_format == "plain"
    assert [line for line in said if "chat template cannot be used" in line] == said[
        1 : 1 + (given == "auto")
    ]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "the tokenizer has no chat template; set it to plain"),
        ("{{ 1 / 0 }}", "template cannot be used: .*division by zero.*; set it to plain"),
        ("{{ raise_exception('never') }}", "template cannot be used: never; set it to plain"),
        ("always the same", "template cannot be used: .*message.*; set it to plain"),
    ],
)
def test_chat_prompts_of_a_model_that_has_none_are_refused(
    template: str | None, said: str, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = template
    asked = config(tmp_path, tmp_path / "sft").model_copy(update={"prompt_format": "chat"})
    with pytest.raises(
        UsageError, match=f"^rollout.prompt_format or --prompt_format is chat, but .*{said}"
    ) as caught:
        training._without_auto(asked, PromptRenderer(tokenizer), CPU, print)
    assert "\n" not in str(caught.value)


def test_what_a_kill_tore_of_the_metrics_is_dropped_at_a_resume(tmp_path: Path) -> None:
    path, said = tmp_path / "metrics.jsonl", list[str]()
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    asked = config(tmp_path, tmp_path).model_copy(update={"trackers": ()})
    callback = ProgressCallback(asked, lambda *_: None, said.append)
    state, arguments = (
        TrainerState(global_step=1, max_steps=9),
        TrainingArguments(output_dir=str(tmp_path), use_cpu=True),
    )
    callback.on_train_begin(arguments, state, TrainerControl())
    assert path.read_text() == '{"step": 1, "loss": 2.0}\n'
    (line,) = said
    assert line.startswith(f"{tmp_path}: 9 steps of 4 demonstrations; python -m trainer watch ")
    # The gradient of a step that float16's loss scaling skips.
    logs = {"loss": 1.5, "grad_norm": math.inf, "epoch": 0.5}
    callback.on_log(arguments, state, TrainerControl(), logs=logs)
    callback.on_log(arguments, state, TrainerControl(), logs={"train_loss": 1.5, "entropy": 1.0})
    _, row = metrics(tmp_path)
    assert row.keys() == {"step", "num_steps", "time", "loss"}


def test_the_seconds_of_a_step_are_since_the_line_before_of_the_same_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(tmp_path, tmp_path).model_copy(update={"trackers": ()})
    callback = ProgressCallback(asked, lambda *_: None, lambda _: None)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    before = {"step": 5, "time": 1.0, "loss": 3.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(before) + "\n")
    state = TrainerState(global_step=5, max_steps=99)

    def at(second: float) -> None:
        monkeypatch.setattr("trainer.sft.callbacks.time.monotonic", lambda: second)

    at(100.0)
    callback.on_train_begin(arguments, state, TrainerControl())
    for second, step, logs in (
        (120.0, 10, {"loss": 2.0}),
        (150.0, 10, {"eval_loss": 2.0}),  # an evaluation is no part of a step
        (155.0, 15, {"loss": 1.0}),
    ):
        at(second)
        state.global_step = step
        callback.on_log(arguments, state, TrainerControl(), logs=logs)
    assert [row.get("time/step_s") for row in metrics(tmp_path)] == [None, 4, None, 1]
