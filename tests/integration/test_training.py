"""Two real processes: ``python -m trainer`` against a real vLLM server on the CPU."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam
from peft import PeftModel
from prometheus_client.parser import text_string_to_metric_families
from transformers import AutoModelForCausalLM

from inference_server.launch.server_process import ServerProcess, free_port
from inference_server.wire.schemas import ServerStatus
from tests.integration.saboteur import (
    DoublesB,
    DoublesTheTemperature,
    Saboteur,
    ServesThePreviousAdapter,
    ShiftsLogprobs,
    TellsTheTemperatureThatItDoubles,
    sabotaged,
)
from trainer.config.sections import TrainConfig
from trainer.data.sources import load_records
from trainer.data.word_problems import Split
from trainer.errors import SyncError
from trainer.io.run_layout import checkpoint_folders
from trainer.online.setup import train
from trainer.rollouts.questions import QuestionStream
from trainer.run_state.best import read_best
from trainer.tiny_model.build import build_tiny_model
from trainer.tiny_model.pretraining import TinyModelRecipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def train_settings(url: str, base: Path, run: Path, **options: str) -> dict[str, str]:
    return {
        "policy.base_model": str(base),
        "server.url": url,
        "run.folder": str(run),
        "run.num_threads": "1",
        "rollout.questions_per_step": "2",
        "rollout.max_tokens": "12",
        "rollout.seed": "3",
        "ppo.learning_rate": "1e-3",
        "ppo.critic_warmup_steps": "0",
        "ppo.questions_per_mini_batch": "1",
        **options,
    }


def train_command(server: ServerProcess, base: Path, run: Path, **options: str) -> list[str]:
    # Each start tokenizes all questions.
    few = {"data.num_questions": "64", **options}
    settings = train_settings(server.url, base, run, **few)
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    return [sys.executable, "-m", "trainer", "train", *words]


def train_config(url: str, base: Path, run: Path, **options: str) -> TrainConfig:
    """The same settings, for the training loop in this process."""
    sections: dict[str, dict[str, str]] = {}
    for key, value in train_settings(url, base, run, **options).items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    return TrainConfig.model_validate(sections)


def run_trainer(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments], capture_output=True, text=True, timeout=300
    )


def metrics_of(run: Path) -> list[dict[str, float]]:
    """The whole rows: a run may be writing the next one."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def status_of(server: ServerProcess) -> ServerStatus:
    return ServerStatus.model_validate(httpx.get(f"{server.url}/v1/status").json())


def test_online_ppo_moves_the_served_policy(
    server: ServerProcess, tiny_base: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first_version = status_of(server).next_version
    done = subprocess.run(
        [*train_command(server, tiny_base, run, **{"run.num_steps": "3"}), "--verbose"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr

    metrics = metrics_of(run)
    assert [row["step"] for row in metrics] == [1, 2, 3]
    # Version first_version is the start; every step publishes one more.
    assert [row["version"] for row in metrics] == [first_version + i for i in (1, 2, 3)]
    assert status_of(server).active_version == first_version + 3
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as api:
        question: ChatCompletionUserMessageParam = {
            "role": "user",
            "content": "Ada has 3 pens. How many?",
        }
        chat = api.chat.completions.create(model="policy", messages=[question], max_tokens=4)
    assert chat.model == f"policy-{first_version + 3:06d}"
    # Overlap: the second batch was asked for before the first update.
    assert [row["rollout/lag"] for row in metrics] == [0, 1, 1]
    assert all(row["ppo/logprob_mismatch"] < 1e-3 for row in metrics)
    words = ("step    1", "step    3", "mismatch", "trainer waits", "server idle")
    assert all(word in done.stdout for word in words)
    phases = ("generate", "score", "wait", "prove", "experience", "update", "publish", "step")
    assert all(row[f"time/{phase}_s"] > 0 for row in metrics for phase in phases)

    for step in (1, 2, 3):
        lines = (run / f"rollouts/step-{step:06d}.jsonl").read_text().splitlines()
        groups = [json.loads(line) for line in lines]
        assert len(groups) == 2
        for group in groups:
            assert group["policy_version"] == first_version + max(0, step - 2)
            assert len(group["arm_outputs"]) == 8
            for arm in group["arm_outputs"]:
                assert len(arm["token_ids"]) == len(arm["sampler_logprobs"]) >= 1

    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    adapters = sorted((run / "adapters").iterdir())
    assert len(adapters) == 4
    model = PeftModel.from_pretrained(base, adapters[-1])
    moved = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert any(bool(p.abs().max() > 0) for p in moved)
    assert (run / "checkpoints/step-000003").is_dir()
    assert any((run / "tensorboard").iterdir())


def journal_lines(run: Path) -> int:
    """The number of journal lines: one for the start, then two per step, before its update and before its push."""
    path = run / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def is_publishing(run: Path) -> bool:
    lines = journal_lines(run)
    return lines % 2 == 1 and len(metrics_of(run)) < lines // 2


def is_saving(run: Path) -> bool:
    return any((run / "checkpoints").glob("*.unfinished"))


def kill_while(condition: Callable[[Path], bool], command: list[str], run: Path, step: int) -> None:
    """SIGKILL a trainer the first time that a condition holds from ``step`` on, or else two steps later.

    How long the condition holds depends on the machine, so the kill must not depend on seeing it.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 200
        while (num_done := len(metrics_of(run))) < step + 1:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            if num_done >= step - 1 and condition(run):
                break
            time.sleep(0.004)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_resumes_after_sigkills(server: ServerProcess, tiny_base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = tmp_path / "unsolvable.jsonl"
    rows = [{"question": f"What is {i}?", "answer": f"#### {10**9 + i}"} for i in range(13)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {
        "run.num_steps": "6",
        "run.checkpoint_every": "2",
        "data.source": str(data),
        "data.curriculum": "1",
    }
    command = train_command(server, tiny_base, run, **options)
    command.append("--rollout.dynamic_sampling")
    kill_while(is_publishing, command, run, 1)
    kill_while(is_saving, command, run, 3)
    assert len(metrics_of(run)) < 6

    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in metrics_of(run)] == list(range(1, 7))
    versions = [row["version"] for row in metrics_of(run)]
    # Published versions keep their numbers and none is published twice, as if the run had never been killed.
    assert versions == list(range(int(versions[0]), int(versions[0]) + 6))
    assert status_of(server).active_version == versions[-1]
    # No question is ever solved, so every question was replaced while spares lasted: the questions of
    # each step, killed or not, are the last spares of an undisturbed stream.
    stream = QuestionStream(load_records(str(data), Split.TRAIN, num_records=13), seed=0)
    expected = [
        [r.id for r in stream.take(2, num_spares=4, version=0).spares[2:]] for _ in range(6)
    ]
    journal = [run / f"rollouts/step-{step:06d}.jsonl" for step in range(1, 7)]
    assert [
        [json.loads(line)["id"] for line in path.read_text().splitlines()] for path in journal
    ] == expected
    assert {row["rollout/num_replaced_groups"] for row in metrics_of(run)} == {4}
    assert [row["rollout/lag"] for row in metrics_of(run)] == [0, *[1] * 5]

    replayed = run_trainer("replay", str(run), "--verify")
    assert replayed.returncode == 0, replayed.stdout
    assert "6 steps, 7 adapters: all digests and metrics are as recorded" in replayed.stdout


def test_evaluates_while_it_trains_and_keeps_the_best(
    server: ServerProcess, tiny_base: Path, tmp_path: Path
) -> None:
    options = {
        "run.num_steps": "5",
        "run.evaluate_every": "2",
        "run.num_evaluation_questions": "8",
        "run.checkpoint_every": "9",
        "run.num_checkpoints": "1",
        "data.counterfactual": "0.5",
    }
    train(train_config(server.url, tiny_base, tmp_path, **options))
    rows = metrics_of(tmp_path)
    evaluated = [row for row in rows if "eval/accuracy" in row]
    assert [row["eval/step"] for row in evaluated] == [0, 2, 4]
    assert evaluated[0]["eval/version"] < rows[0]["version"]
    assert evaluated[0]["eval/accuracy"] == 0  # it is a random model
    for row in evaluated[1:]:
        assert row["eval/step"] <= row["step"]
        assert row["eval/version"] == rows[int(row["eval/step"]) - 1]["version"]
        assert row["eval/accuracy"] == row["eval/best_accuracy"] == 0
    for step in range(1, 6):
        text = (tmp_path / f"rollouts/step-{step:06d}.jsonl").read_text()
        first, second = map(json.loads, text.splitlines())
        assert (first["id"] + "~", first["id"]) == (second["id"], second["counterfactual"]["id"])
        assert second["counterfactual"]["question"] == first["question"] != second["question"]
    best = read_best(tmp_path)
    assert best is not None
    assert (best.step, best.num_questions) == (2, 8)
    assert (tmp_path / best.adapter / "adapter_model.safetensors").is_file()
    assert [f.name for f in checkpoint_folders(tmp_path)] == [
        "step-000000",
        "step-000002",
        "step-000005",
    ]


def test_sigterm_checkpoints_and_exits_0(
    server: ServerProcess, tiny_base: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = train_command(server, tiny_base, run, **{"run.num_steps": "500"})
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 200
        while not metrics_of(run):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        output, _ = process.communicate(timeout=100)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    last_step = len(metrics_of(run))
    assert f"stopped at step {last_step}" in output
    assert (run / f"checkpoints/step-{last_step:06d}").is_dir()


def test_report_eval_and_sample_commands(
    server: ServerProcess, tiny_base: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = subprocess.run(
        train_command(server, tiny_base, run, **{"run.num_steps": "1"}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (adapter,) = sorted((run / "adapters").iterdir())[-1:]
    output = run / "evaluation.json"
    evaluated = run_trainer(
        *("eval", "--models", f'["Base=base", "PPO={adapter}"]', "--num_questions", "10"),
        *("--max_tokens", "8", "--samples_per_arm", "1", "--server.url", server.url),
        *("--output", str(output)),
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert all(word in evaluated.stdout for word in ("PPO − Base", "pass@8", "maudlin_3"))
    assert output.is_file()
    differed = run_trainer("diff", str(output), "Base", "PPO")
    assert differed.returncode == 0, differed.stderr
    assert "of 10 questions" in differed.stdout

    reported = run_trainer("report", str(run))
    assert reported.returncode == 0, reported.stderr
    assert "<html" in (run / "report.html").read_text()

    sampled = run_trainer(
        *("sample", "How many?", "--gold", "3", "--max_tokens", "8", "--server.url", server.url)
    )
    assert sampled.returncode == 0, sampled.stderr
    assert all(name in sampled.stdout for name in ("wolfram_0", "maudlin_3", "s_wm"))


# --- weight-sync check ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (ServesThePreviousAdapter, "the server's numbers fit version {previous}: "),
        (DoublesB, "the server's numbers fit lora_B doubled: "),
        (DoublesTheTemperature, "the server's numbers fit 2 times the arms' temperatures: "),
        (TellsTheTemperatureThatItDoubles, "was asked at temperature 0.2 and top_p 0.95, and "),
        (ShiftsLogprobs, "the server's numbers fit the token after (shifted by one): "),
    ],
)
def test_a_server_that_breaks_its_promise_stops_the_run_at_that_step(
    kind: type[Saboteur], cause: str, server: ServerProcess, tiny_base: Path, tmp_path: Path
) -> None:
    version = status_of(server).next_version
    with (
        sabotaged(server.url, kind) as url,
        pytest.raises(SyncError, match=f"^version {version + 1} fails the weight-sync") as caught,
    ):
        train(train_config(url, tiny_base, tmp_path, **{"run.num_steps": "9"}))
    message = str(caught.value)
    assert cause.format(previous=version) in message
    assert "\n" not in message
    # The server is honest up to the second push, after step 1. Step 2 still trained on rollouts of the first version,
    # and no step trained on rollouts of the second. A checkpoint has the steps done until then.
    assert [row["step"] for row in metrics_of(tmp_path)] == [1, 2]
    assert [f.name for f in checkpoint_folders(tmp_path)] == ["step-000000", "step-000002"]


def test_an_honest_pass_through_does_not_stop_the_run(
    server: ServerProcess, tiny_base: Path, tmp_path: Path
) -> None:
    with sabotaged(server.url, Saboteur) as url:
        train(train_config(url, tiny_base, tmp_path, **{"run.num_steps": "3"}))
    rows = metrics_of(tmp_path)
    # A step proves the version whose rollouts it trains on; the run ends once the last one is proven too.
    assert [row["sync/version"] for row in rows] == [
        row["version"] - 1 - row["rollout/lag"] for row in rows
    ]
    assert all(row["sync/mismatch"] < 1e-5 for row in rows)
    # The first step trains on rollouts of its own version, the others on rollouts of the version before.
    assert rows[0]["ppo/logprob_lag"] < 1e-5
    assert all(row["ppo/logprob_lag"] > 1e-4 for row in rows[1:])
    assert all(row["ppo/logprob_mismatch"] < 1e-5 for row in rows)


DASHBOARDS = sorted((Path(__file__).resolve().parents[2] / "deploy/grafana/dashboards").glob("*"))


def scraped(url: str) -> set[str]:
    """Names of families and of samples: a counter that has no label values yet has a family but no samples."""
    families = list(text_string_to_metric_families(httpx.get(url).text))
    samples = {sample.name for family in families for sample in family.samples}
    counters = {f"{family.name}_total" for family in families if family.type == "counter"}
    return {family.name for family in families} | samples | counters


def queried(dashboard: Path) -> set[str]:
    """Every name of a metric in a dashboard's queries, or regular expression for such names."""
    expressions = [
        target["expr"]
        for panel in json.loads(dashboard.read_text())["panels"]
        for target in panel.get("targets", ())
    ]
    return {
        name
        for expression in expressions
        for name in re.findall(r"\b(?:regime_w_|vllm:|process_)[\w:]+(?:\.\+)?", expression)
    }


def test_every_metric_of_the_dashboards_is_scraped(
    server: ServerProcess, tiny_base: Path, tmp_path: Path
) -> None:
    metrics_port = free_port()
    # The same server under two names, so that there are metrics of several servers as well.
    urls = [server.url, server.url.replace("127.0.0.1", "localhost")]
    # Without a function of one's own there is no metric by function.
    own_function = Path(__file__).parents[2] / "examples/short_answers.py"
    running = subprocess.Popen(
        train_command(
            server,
            tiny_base,
            tmp_path / "run",
            **{
                "server.urls": json.dumps(urls),
                "run.num_steps": "1000",
                "run.evaluate_every": "1",
                "run.num_evaluation_questions": "2",
                "run.metrics_port": str(metrics_port),
                "reward.functions": f'["regime_w", "{own_function}:reward"]',
            },
        ),
        stdout=subprocess.PIPE,
        text=True,
    )
    trainer_url = f"http://127.0.0.1:{metrics_port}/metrics"
    try:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("held-out accuracy"):
                break
        names = scraped(trainer_url) | scraped(f"{server.url}/metrics")
    finally:
        running.kill()
        running.communicate()
    assert len(DASHBOARDS) == 2
    for dashboard in DASHBOARDS:
        asked = queried(dashboard)
        assert asked
        missing = {q for q in asked if not any(re.fullmatch(q, name) for name in names)}
        assert not missing, dashboard.name


@pytest.mark.parametrize(
    ("model", "code", "said"),
    [("same", 0, "the same files"), ("another", 1, "another model, or another revision")],
)
def test_the_doctor_asks_whether_the_server_has_the_same_base(
    model: str,
    code: int,
    said: str,
    server: ServerProcess,
    tiny_base: Path,
    tmp_path: Path,
) -> None:
    base = tiny_base
    if model == "another":
        base = build_tiny_model(tmp_path / "base", TinyModelRecipe(num_steps=0, seed=1))
    settings = train_settings(server.url, base, tmp_path / "run")
    done = run_trainer("doctor", *(w for k, v in settings.items() for w in (f"--{k}", v)))
    assert done.returncode == code, done.stdout
    found = [line.split("│")[3].strip() for line in done.stdout.splitlines() if "│" in line]
    assert said in " ".join(found)
