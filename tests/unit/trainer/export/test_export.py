"""What an export holds: weights that compute the policy, and a card with the evaluation's figures."""

import json
import os
import shlex
import shutil
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from inference_server.wire.base_files import fingerprint
from inference_server.wire.digests import sha256_of_bytes, sha256_of_file
from tests.unit.base_variants import copy_of, retrain
from tests.unit.chat_tokenizers import CHATML
from trainer.cli import main
from trainer.client.model_spec import ModelSpec
from trainer.commands.early_checks import check_export
from trainer.config.sections import ExportCommand, PolicyConfig, SFTRunConfig
from trainer.errors import UsageError
from trainer.evaluation.results import Evaluation
from trainer.export.card import Exported, model_card
from trainer.export.export import export
from trainer.export.target import repository_of
from trainer.export.versions import RunVersion, choose_version
from trainer.io.base_record import BaseRecord, base_of, keep_base
from trainer.io.kept_settings import as_toml
from trainer.model.roles import PolicyRoles
from trainer.report.run_record import read_run
from trainer.run_state.best import Best, write_best
from trainer.run_state.journal_entries import JournaledAdapter, to_line

MADE_RUN = Path(__file__).parents[3] / "fixtures/verdict/improves"
"""A real run of 24 steps with its metrics and its evaluation, without its adapters."""
WEIGHTS = "adapter_model.safetensors"
QUESTION = "What is 6 times 7?"


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_base: Path,
    make_roles: Callable[..., PolicyRoles],
) -> Path:
    """A run whose versions 23 and 24 are adapters of the tiny base; tests only read it."""
    return make_run(tmp_path_factory.mktemp("runs") / "improves", tiny_base, make_roles)


def make_run(folder: Path, base: Path, make_roles: Callable[..., PolicyRoles]) -> Path:
    shutil.copytree(MADE_RUN, folder)
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(config.replace("models/tiny-base", str(base)))
    with (folder / "journal.jsonl").open("wb") as journal:
        for step, version in ((20, 23), (24, 24)):
            adapter = folder / f"adapters/policy-{version:06d}"
            adapter.mkdir(parents=True)
            make_roles(seed=version).export_policy(adapter)
            sha256 = sha256_of_file(adapter / WEIGHTS)
            line = JournaledAdapter(
                step=step, version=version, sha256=sha256, dtype="float32", token_budget=64
            )
            journal.write(to_line(line))
    start, trained = (evaluation := Evaluation.read(folder / "evaluation.json")).models
    trained = trained.model_copy(update={"adapter_sha256": sha256})
    evaluation.model_copy(update={"models": (start, trained)}).write(folder / "evaluation.json")
    return folder


def exported(run: Path, to: Path, **flags: Any) -> Path:
    export(ExportCommand(run=run, to=str(to), **flags), say=lambda line: None)
    return to


@pytest.fixture(scope="module")
def merged(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(run, tmp_path_factory.mktemp("merged") / "model", merged=True)


@pytest.fixture(scope="module")
def adapter(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(run, tmp_path_factory.mktemp("adapter") / "adapter", adapter=True)


def by_peft(base: Path, adapter: Path) -> Any:
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(loaded, adapter)


@torch.no_grad()
def logits(model: Any, folder: Path) -> torch.Tensor:
    tokens = AutoTokenizer.from_pretrained(folder)(QUESTION, return_tensors="pt")
    found: torch.Tensor = model(**tokens).logits
    return found


def test_the_merged_model_computes_what_base_and_adapter_do(
    run: Path, merged: Path, tiny_base: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(merged)
    wanted = logits(by_peft(tiny_base, run / "adapters/policy-000024"), tiny_base)
    plain = logits(AutoModelForCausalLM.from_pretrained(tiny_base), tiny_base)
    found = logits(model, merged)
    assert model.dtype is torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert (plain - wanted).abs().max() > 0.1
    # Tied as in the base: the head is not written a second time.
    assert (
        load_file(merged / "model.safetensors").keys()
        == load_file(tiny_base / "model.safetensors").keys()
    )
    assert not list(merged.parent.glob("*.unfinished"))


def test_in_half_precision_every_weight_is_the_sum_in_float32_rounded_once(
    run: Path, merged: Path, tmp_path: Path
) -> None:
    folder = exported(run, tmp_path / "half", merged=True, dtype="bfloat16")
    exact = load_file(merged / "model.safetensors")
    half = load_file(folder / "model.safetensors")
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    for name, weight in half.items():
        assert torch.equal(weight, exact[name].to(torch.bfloat16)), name


def test_the_tokenizer_its_template_and_the_generation_settings_come_along(
    run: Path, tiny_base: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(base)
    # Transformers reads this and refuses to write it: a temperature without sampling.
    (base / "generation_config.json").write_text('{"temperature": 0.6, "do_sample": false}')
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    config = (copy / "config.toml").read_text().replace(str(tiny_base), str(base))
    (copy / "config.toml").write_text(config)
    for kind in ("merged", "adapter"):
        folder = exported(copy, tmp_path / kind, **{kind: True})
        found = AutoTokenizer.from_pretrained(folder)
        assert (found.chat_template, found(QUESTION)) == (CHATML, tokenizer(QUESTION))
    assert GenerationConfig.from_pretrained(tmp_path / "merged").temperature == 0.6


def test_the_adapter_is_the_versions_and_loads_by_peft(
    run: Path, adapter: Path, tiny_base: Path
) -> None:
    version = run / "adapters/policy-000024"
    assert (adapter / WEIGHTS).read_bytes() == (version / WEIGHTS).read_bytes()
    assert torch.equal(
        logits(by_peft(tiny_base, adapter), adapter), logits(by_peft(tiny_base, version), tiny_base)
    )


def test_weights_are_merged_only_into_the_base_that_the_run_was_trained_on(
    tiny_base: Path, make_roles: Callable[..., PolicyRoles], tmp_path: Path
) -> None:
    base = copy_of(tiny_base, tmp_path / "base")
    run = make_run(tmp_path / "run", base, make_roles)
    keep_base(run, PolicyConfig(base_model=str(base)))
    before = fingerprint(base)
    assert (exported(run, tmp_path / "merged", merged=True) / "config.json").exists()
    after = fingerprint(retrain(base))
    with pytest.raises(UsageError, match=f"run was trained on {base} with .*{before}.* {after}"):
        exported(run, tmp_path / "merged again", merged=True)
    assert not (tmp_path / "merged again").exists()
    # An adapter says which base it needs, without the machine's folders.
    adapter = exported(run, tmp_path / "adapter", adapter=True)
    assert f"fingerprint `{before}`" in (adapter / "README.md").read_text()
    assert base_of(adapter) == BaseRecord(
        base_model="base", fingerprint=before, served_fingerprint=before
    )


def test_an_evaluation_of_another_base_is_not_in_the_card(
    tiny_base: Path, make_roles: Callable[..., PolicyRoles], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", tiny_base, make_roles)
    keep_base(run, PolicyConfig(base_model=str(tiny_base)))
    evaluation = Evaluation.read(run / "evaluation.json")
    evaluation.model_copy(update={"base_fingerprint": "other"}).write(run / "evaluation.json")
    said: list[str] = []
    export(ExportCommand(run=run, to=str(tmp_path / "to"), adapter=True), said.append)
    assert said[1].startswith("warning: evaluation.json is left out: the run was trained on ")
    card = ModelCard.load(tmp_path / "to/README.md")
    assert "Not measured." in card.text
    assert card.data.eval_results is None


# --- the card ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_the_card_has_the_evaluations_figures(
    kind: str, run: Path, request: pytest.FixtureRequest, tiny_base: Path
) -> None:
    card = ModelCard.load(request.getfixturevalue(kind) / "README.md")
    evaluation = Evaluation.read(run / "evaluation.json")
    start, trained = evaluation.models
    (difference,) = evaluation.differences
    for figure in (
        f"| PPO | {trained.accuracy.value:.1%} | [{100 * trained.accuracy.low:.1f}, {100 * trained.accuracy.high:.1f}]",
        f"| SFT | {start.accuracy.value:.1%} | [{100 * start.accuracy.low:.1f}, {100 * start.accuracy.high:.1f}]",
        f"{difference.points:+.1f} points over SFT [{difference.low:+.1f}, {difference.high:+.1f}]",
        f"{difference.num_won} won and {difference.num_lost} lost",
        "**Yes.** PPO answers",
        "these weights are its `PPO`",
    ):
        assert figure in card.text
    (result,) = card.data.eval_results
    assert result.metric_value == trained.accuracy.value
    assert card.data.library_name == {"merged": "transformers", "adapter": "peft"}[kind]
    assert "regime-w" in card.data.tags


@pytest.mark.parametrize(("dtype", "relation"), [(None, "adapter"), ("bfloat16", "finetune")])
def test_a_base_and_data_of_the_hub_stand_in_the_metadata(
    dtype: str | None, relation: str, tmp_path: Path
) -> None:
    made = Path(shutil.copytree(MADE_RUN, tmp_path / "improves"))
    text = (made / "config.toml").read_text().replace("models/tiny-base", "owner/base")
    text = text.replace('\nsource = "word-problems"', '\nsource = "owner/data:main"')
    (made / "config.toml").write_text(text)
    record = read_run(made)
    assert record.config is not None
    folder = made / "adapters/policy-000024"
    card = ModelCard(
        model_card(
            Exported(
                name="owner/name",
                run=record,
                config=record.config,
                version=RunVersion(folder=folder, step=24, sha256="0"),
                journal=None,
                merged_dtype=dtype,
            )
        )
    )
    assert (card.data["base_model"], card.data["datasets"]) == ("owner/base", "owner/data")
    assert card.data["base_model_relation"] == relation


def test_the_card_has_the_digests_the_prompt_and_the_settings(
    run: Path, adapter: Path, tiny_base: Path
) -> None:
    text = (adapter / "README.md").read_text()
    journal = (run / "journal.jsonl").read_bytes()
    assert f"`{sha256_of_bytes(journal)}` of its first {len(journal)} bytes" in text
    assert sha256_of_file(adapter / WEIGHTS) in text
    assert "    learning_rate = 0.0005\n" in text
    assert "    Solve the problem step by step and end with the final answer" in text
    # A folder of this machine is no model of the Hub, and nobody else's business.
    assert "base_model:" not in text
    assert str(tiny_base.parent) not in text
    assert "127.0.0.1" not in text


def test_the_folders_of_a_machine_are_cut_from_settings_that_name_files_and_from_no_other(
    run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    tables = tomllib.loads((copy / "config.toml").read_text())
    tables["policy"]["adapter"] = "../../home/bob/secret/sft"
    tables["data"]["source"] = "~bob/secret/x.jsonl#train"
    tables["data"]["evaluation_source"] = "data/held_out.jsonl"
    tables["ppo"]["critic_rollouts"] = "/secret/rollouts.jsonl"
    functions = ["regime_w", "../../home/bob/secret/r.py:f", "/secret/s.py:g", "pkg.t:h"]
    tables["reward"]["functions"] = functions
    prompt = "/no_think Solve it as a/b, ../ or ~"
    arm = {"name": "slash", "system_prompt": prompt, "temperature": 1.0, "top_p": 1.0}
    tables["rollout"] |= {"stop": ["/answer"], "arms": [arm]}
    (copy / "config.toml").write_text(tomli_w.dumps(tables))
    text = (exported(copy, tmp_path / "x", adapter=True) / "README.md").read_text()
    assert "secret" not in text
    settings = text.partition("Settings:\n")[2]
    found = tomllib.loads("\n".join(line.removeprefix("    ") for line in settings.splitlines()))
    assert found["policy"]["adapter"] == "sft"
    assert found["data"]["source"] == "x.jsonl#train"
    assert found["data"]["evaluation_source"] == "data/held_out.jsonl"
    assert found["reward"]["functions"] == ["regime_w", "r.py:f", "s.py:g", "pkg.t:h"]
    assert found["rollout"]["stop"] == ["/answer"]
    assert found["rollout"]["arms"] == [arm]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "[ppo]\nkl_horizon = 1",
            r"ppo\.kl_horizon: unknown key; did you mean ppo\.kl_horizon_steps",
        ),
        (None, "config.toml: missing, and the run has begun"),
    ],
)
def test_settings_that_cannot_be_read_are_named_with_their_key(
    change: str | None, said: str, run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    text = (copy / "config.toml").read_text()
    (copy / "config.toml").unlink()
    if change is not None:
        (copy / "config.toml").write_text(text.replace("[ppo]", change))
    with pytest.raises(UsageError, match=said):
        exported(copy, tmp_path / "x", adapter=True)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            "adapter_model.safetensors",
            r"of an SFT, and `export` takes those of runs: copy the folder",
        ),
        ("checkpoints/checkpoint-5/trainer_state.json", "an SFT that is not finished: run `sft`"),
    ],
)
def test_an_sft_is_named_as_what_it_is(file: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(as_toml(SFTRunConfig()))
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(UsageError, match=said):
        check_export(ExportCommand(run=tmp_path, to=str(tmp_path / "x"), adapter=True))


@pytest.mark.parametrize("held_out", ["/secret/held_out.jsonl", "null"])
def test_a_card_says_where_other_questions_were_asked_without_folders(
    held_out: str, run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    tables = tomllib.loads((copy / "config.toml").read_text())
    tables["data"] |= {"source": "/secret/x.jsonl", "evaluation_source": held_out}
    (copy / "config.toml").write_text(tomli_w.dumps(tables))
    text = (exported(copy, tmp_path / "x", adapter=True) / "README.md").read_text()
    assert "The questions are those of word-problems, but the run" in text
    assert "secret" not in text


def test_a_version_that_was_not_evaluated_does_not_take_anothers_figures(
    run: Path, tmp_path: Path
) -> None:
    card = ModelCard.load(exported(run, tmp_path / "x", adapter=True, step=20) / "README.md")
    assert "These very weights are not among the evaluated" in card.text
    assert card.data.eval_results is None


def test_an_evaluation_is_of_the_weights_whose_digest_it_has(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "improves"))
    evaluation = Evaluation.read(copy / "evaluation.json")
    digests = {20: "", 24: "0" * 64}
    for step, version in ((20, 23), (24, 24)):
        digests[step] = sha256_of_file(copy / f"adapters/policy-{version:06d}" / WEIGHTS)
    # The name is that of the newest version, which has been trained on since: the weights are others.
    start, trained = evaluation.models
    trained = trained.model_copy(update={"adapter_sha256": digests[20]})
    evaluation.model_copy(update={"models": (start, trained)}).write(copy / "evaluation.json")
    other = ModelCard.load(exported(copy, tmp_path / "24", adapter=True, step=24) / "README.md")
    same = ModelCard.load(exported(copy, tmp_path / "20", adapter=True, step=20) / "README.md")
    assert "These very weights are not among the evaluated" in other.text
    assert other.data.eval_results is None
    assert "these weights are its `PPO`" in same.text


def test_names_of_others_are_shown_as_they_are_and_end_nothing(run: Path, tmp_path: Path) -> None:
    name = "a *b* [c](http:d) `e` | <f> _g_"
    copy = Path(shutil.copytree(run, tmp_path / name))
    evaluation = (copy / "evaluation.json").read_text()
    (copy / "evaluation.json").write_text(evaluation.replace('"PPO"', json.dumps(name)))
    to = tmp_path / "it's here"
    text = (exported(copy, to, adapter=True, step=20) / "README.md").read_text()
    escaped = r"a \*b\* [c\](http:d) \`e\` \| &lt;f> \_g\_"
    assert f"\n# {escaped}\n" in text
    assert f"\n| {escaped} | " in text
    assert f"the verdict is of `` {name} ``" in text
    command = next(line for line in text.splitlines() if "vllm serve" in line)
    assert shlex.split(command)[-1] == f"policy={to.name}"


def test_without_an_evaluation_the_card_says_that_nothing_was_measured(
    run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "evaluation.json").unlink()
    text = (exported(copy, tmp_path / "x", adapter=True) / "README.md").read_text()
    assert "Not measured." in text
    assert str(tmp_path) not in text


# --- which version ----------------------------------------------------------------------------


def test_the_newest_the_best_or_the_one_of_a_step_is_chosen(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    best = Best(step=20, version=23, adapter="adapters/policy-000023", accuracy=1, num_questions=9)
    write_best(copy, best)
    assert choose_version(copy, step=None, best=False).step == 24
    assert choose_version(copy, step=20, best=False).folder.name == "policy-000023"
    assert choose_version(copy, step=None, best=True).folder.name == "policy-000023"
    (copy / "journal.jsonl").unlink()  # As train-offline leaves a run.
    assert choose_version(copy, step=23, best=False).step == 23


@pytest.mark.parametrize(
    ("evaluated", "said"),
    [
        (None, "has evaluated no version; leave it out, or set run.evaluate_every"),
        (0, "has evaluated only its start so far; leave it out, or let the run go on"),
    ],
)
def test_without_a_best_version_it_is_said_what_was_evaluated(
    evaluated: int | None, said: str, run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    if evaluated is not None:
        with (copy / "metrics.jsonl").open("a") as file:
            row = {"step": 24, "eval/step": evaluated, "eval/accuracy": 0.5}
            file.write(json.dumps(row) + "\n")
    with pytest.raises(UsageError, match=said):
        choose_version(copy, step=None, best=True)


def test_only_a_versions_own_folder_is_taken_for_it(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    newest = copy / "adapters/policy-000024"
    for name in (
        "policy-000024-backup2",
        "policy-old-24",
        "policy-99",
        "policy-0000025",
        "policy-²²²²²²",
    ):
        shutil.copytree(newest, copy / "adapters" / name)
    assert choose_version(copy, step=None, best=False).folder == newest
    assert ModelSpec.parse(str(copy), field="model").folder == newest
    # By their numbers, not by their letters.
    shutil.copytree(newest, copy / "adapters/policy-1000000")
    newer = Path(shutil.copytree(newest, copy / "adapters/policy-999999")).with_name(
        "policy-1000000"
    )
    assert ModelSpec.parse(str(copy), field="model").folder == newer


@pytest.mark.parametrize("to", ["hub:owner/name", "Hub:owner/name", "HUB:owner/name"])
def test_the_prefix_of_the_hub_is_known_in_any_case(to: str) -> None:
    assert repository_of(to) == "owner/name"


# --- what is refused --------------------------------------------------------------------------

REFUSED = {
    "RUN --to NEW": "give --merged for a model of its own, or --adapter for the adapter alone",
    "RUN --to NEW --merged --adapter": "give --merged",
    "RUN --merged": "to: ",
    "RUN --to NEW --adapter --dtype bfloat16": "--dtype is for --merged",
    "RUN --to NEW --merged --best --step 3": "choose one",
    "RUN --to NEW --adapter --best": "--best: ",
    "RUN --to NEW --adapter --step 21": "it has those of step 20, 24",
    "no/such/run --to NEW --adapter": "no/such/run: no such folder",
    "EMPTY --to NEW --adapter": "no metrics in ",
    "RUN --to EMPTY --adapter": "exists already",
    "RUN --to RUN --adapter --force": "is not an earlier export",
    "RUN --to ADAPTERS/policy-000025 --adapter": "which is for the run's versions alone",
    "RUN --to ADAPTERS/new/x --merged": "which is for the run's versions alone",
    "RUN --to RUN/checkpoints/../adapters/x --adapter": "which is for the run's versions alone",
    "RUN --to Hub:name --adapter": "hub:owner/name",
    "RUN --to hub:name --adapter": "hub:owner/name",
    "RUN --to hub:a/b/c --adapter": "hub:owner/name",
    "RUN --to hub:../b --adapter": "hub:owner/name",
    "DAMAGED --to NEW --merged": "its weights are not those that the journal has",
    "BASELESS --to NEW --merged": "policy.base_model",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    arguments: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = {name: tmp_path / name.lower() for name in ("NEW", "EMPTY", "DAMAGED", "BASELESS")}
    folders |= {"RUN": run, "ADAPTERS": run / "adapters"}
    folders["EMPTY"].mkdir()
    for name in {"DAMAGED", "BASELESS"} & set(arguments.split()):
        shutil.copytree(run, folders[name])
    if "DAMAGED" in arguments:
        with (folders["DAMAGED"] / "adapters/policy-000024" / WEIGHTS).open("r+b") as file:
            file.seek(-4, 2)
            file.write(b"\0\0\0\0")
    if "BASELESS" in arguments:
        config = folders["BASELESS"] / "config.toml"
        lines = config.read_text().splitlines()
        lines[1] = 'base_model = "/no/such/base"'
        config.write_text("\n".join(lines))
    words = []
    for word in arguments.split():
        first, *rest = word.split("/")
        words.append(str(Path(folders[first], *rest)) if first in folders else word)
    monkeypatch.setattr("sys.argv", ["trainer", "export", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert REFUSED[arguments] in error
    assert len(error.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("new")) == []


def test_force_replaces_an_earlier_export_and_an_empty_folder(run: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for flags in ("--merged", "--adapter"):
        command = ["trainer", "export", str(run), flags, "--to", str(tmp_path / "x"), "--force"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", command)
            main()
    assert (tmp_path / "x" / WEIGHTS).exists()
    assert not (tmp_path / "x/model.safetensors").exists()


def test_folders_of_the_users_beside_the_target_stay_as_they_are(run: Path, tmp_path: Path) -> None:
    (tmp_path / "x.unfinished").mkdir()
    (tmp_path / "x.unfinished/mine").touch()
    exported(run, tmp_path / "x", adapter=True)
    assert (tmp_path / "x.unfinished/mine").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"x", "x.unfinished"}


@pytest.mark.parametrize("force", [False, True])
def test_a_target_that_somebody_makes_meanwhile_is_not_replaced(
    force: bool, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_meanwhile(about: Exported) -> str:
        (tmp_path / "x").mkdir()
        (tmp_path / "x/mine").touch()
        return model_card(about)

    monkeypatch.setattr("trainer.export.export.model_card", made_meanwhile)
    with pytest.raises(UsageError, match="to: "):
        exported(run, tmp_path / "x", adapter=True, force=force)
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "mine"]


def test_an_export_that_fails_leaves_no_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> str:
        raise RuntimeError("no card")

    monkeypatch.setattr("trainer.export.export.model_card", fails)
    with pytest.raises(RuntimeError, match="no card"):
        exported(run, tmp_path / "x", adapter=True)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_sigterm_ends_leaves_no_folder(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ended(about: Exported) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return model_card(about)

    monkeypatch.setattr("trainer.export.export.model_card", ended)
    command = ["trainer", "export", str(run), "--adapter", "--to", str(tmp_path / "x")]
    monkeypatch.setattr("sys.argv", command)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as caught:
            main()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "python -m trainer export: interrupted\n"
    assert list(tmp_path.iterdir()) == []
