"""Evaluating several models through a server, here a fake one that keeps a log."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import stamina

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.digests import sha256_of_bytes
from inference_server.wire.schemas import (
    ArmCompletion,
    ArmGroup,
    ArmsRequest,
    ArmsResponse,
    FinishReason,
    Question,
    ServerStatus,
    Usage,
    adapter_name,
)
from tests.unit.server_answers import adapter_with, limits_with, status_with
from tests.unit.server_stub import ServerStub
from trainer.client.protocol import GreedyPrompt, TextCompletion
from trainer.config.sections import EvaluationConfig
from trainer.data.sources import load_records
from trainer.data.word_problems import Split
from trainer.errors import (
    ConflictError,
    DataError,
    NotFoundError,
    ServerError,
    ServerRejectedError,
    ServerUnreachableError,
    UsageError,
)
from trainer.evaluation.ask import evaluate, run_evaluation
from trainer.evaluation.questions import contamination_lines
from trainer.evaluation.records import answers_path, read_answers
from trainer.evaluation.results import Evaluation
from trainer.io.base_record import BaseRecord, write_base

BASE = "models/tiny-base"
NEXT_VERSION = 7

RECORDS = load_records("word-problems", Split.HELD_OUT, num_records=10)
GOLD = {record.question: record.gold for record in RECORDS}


class FakeServer(ServerStub):
    """Stands in for `ArmsClient`. Model M answers the first ``skill[M]`` questions right."""

    def __init__(self, skill: dict[str, int], *, active: int | None = None) -> None:
        self.skill = skill
        self.versions = {} if active is None else {active: adapter_with(active, active=True)}
        self.active = active
        self.base_fingerprint: str | None = "served"
        self.next_version = NEXT_VERSION
        self.log: list[str] = []
        self.prompts: list[GreedyPrompt] = []
        self.num_busy_deletes = 0
        self.failure: Exception | None = None
        self.fails_after = 0
        self.finish_reason = FinishReason.STOP

    async def __aexit__(self, *error: object) -> None:
        self.log.append("closed")

    async def status(self) -> ServerStatus:
        return status_with(
            boot_id="boot",
            base_model=BASE,
            base_fingerprint=self.base_fingerprint,
            active_version=self.active,
            next_version=self.next_version,
            versions=list(self.versions.values()),
            limits=limits_with(max_model_len_tokens=1024),
        )

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        assert not activate
        self.log.append(f"push {version} {folder.name}")
        self.versions[version] = adapter_with(version)
        self.next_version = version + 1
        return self.versions[version]

    async def delete_adapter(self, version: int) -> None:
        self.log.append(f"delete {version}")
        if self.num_busy_deletes:
            self.num_busy_deletes -= 1
            raise ConflictError(409, "requests in flight")
        if version not in self.versions:
            raise NotFoundError(404, "not loaded")
        del self.versions[version]

    async def complete(
        self, version: int | None, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        model = BASE if version is None else adapter_name(version)
        self.log.append(f"complete {model} {len(questions)}")
        self.prompts.append(prompt)
        if self.failure is not None:
            if self.fails_after == 0:
                raise self.failure
            self.fails_after -= 1
        right = {record.question for record in RECORDS[: self.skill[model]]}
        texts = [GOLD[asked] if asked in right else "I give up." for asked in questions]
        return [TextCompletion(text=text, num_tokens=5, truncated=False) for text in texts]

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        """Two arms: the first answers as greedily, the second never."""
        self.log.append(f"generate {request.policy} {len(request.questions)} seed {request.seed}")
        model = BASE if request.policy == "base" else adapter_name(int(request.policy))
        right = {record.question for record in RECORDS[: self.skill[model]]}
        groups = []
        for question in request.questions:
            assert isinstance(question, Question)
            assert question.gold is None
            gold = next(r.gold for r in RECORDS if r.id == question.id)
            texts = {
                "solo_0": gold if question.question in right else "#### 1",
                "solo_1": "I give up.",
            }
            groups.append(
                ArmGroup(
                    id=question.id,
                    question=question.question,
                    policy_version=None if request.policy == "base" else int(request.policy),
                    arms=[self.completion(name, text) for name, text in texts.items()],
                )
            )
        usage = Usage(prompt_tokens=1, completion_tokens=1)
        return ArmsResponse(policy_version=None, boot_id="boot", groups=groups, usage=usage)

    def completion(self, arm: str, text: str) -> ArmCompletion:
        return ArmCompletion(
            arm=arm,
            sample=0,
            text=text,
            finish_reason=self.finish_reason,
            temperature=0.5,
            top_p=1.0,
            seed=1,
            prompt_token_ids=[1],
            token_ids=[1, 2],
            logprobs=[-0.1, -0.1],
        )


def config(*models: str, **changes: Any) -> EvaluationConfig:
    return EvaluationConfig(models=models, num_questions=10, **changes)


def ignore_progress(num_done: int, num_total: int) -> None:
    pass


async def run(server: FakeServer, asked: EvaluationConfig) -> Evaluation:
    return await evaluate(asked, server, ignore_progress)


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


async def test_models_are_counted_and_compared_on_the_same_questions(tmp_path: Path) -> None:
    server = FakeServer({BASE: 2, "policy-000003": 9, "policy-000007": 5}, active=3)
    sft = adapter(tmp_path / "sft")
    found = await run(server, config("Base=base", f"SFT={sft}", "PPO=policy"))
    assert [m.adapter_sha256 for m in found.models] == [
        None,
        sha256_of_bytes(b""),
        adapter_with(3).sha256,
    ]
    assert [(m.label, m.accuracy.value) for m in found.models] == [
        ("Base", 0.2),
        ("SFT", 0.5),
        ("PPO", 0.9),
    ]
    assert [m.model for m in found.models] == [BASE, str(sft), "policy-000003"]
    assert [m.completions.answered for m in found.models] == [0.2, 0.5, 0.9]
    assert [m.arms for m in found.models] == [None] * 3
    assert [(d.label, d.baseline, round(d.points)) for d in found.differences] == [
        ("SFT", "Base", 30),
        ("PPO", "Base", 70),
        ("PPO", "SFT", 40),
    ]
    assert found.num_questions == len(RECORDS)


async def test_a_folder_is_uploaded_last_and_removed(tmp_path: Path) -> None:
    """Uploading may retire what is served, so that goes first, whatever the order asked for."""
    server = FakeServer({"policy-000003": 1, "policy-000007": 1, "policy-000008": 1}, active=3)
    folders = [adapter(tmp_path / name) for name in ("a", "b")]
    await run(server, config(f"A={folders[0]}", f"B={folders[1]}", "Served=policy-000003"))
    assert server.log == [
        "complete policy-000003 10",
        "push 7 a",
        "complete policy-000007 10",
        "delete 7",
        "push 8 b",
        "complete policy-000008 10",
        "delete 8",
    ]
    assert list(server.versions) == [3]


async def test_a_runs_folder_is_recorded_as_the_version_that_it_stood_for(tmp_path: Path) -> None:
    newest = adapter(tmp_path / "run/adapters/policy-000012")
    found = await run(FakeServer({"policy-000007": 1}), config(f"PPO={tmp_path / 'run'}"))
    assert [m.model for m in found.models] == [str(newest)]


async def test_policy_without_an_active_version_is_the_base() -> None:
    server = FakeServer({BASE: 4})
    found = await run(server, config("Now=policy"))
    assert (found.models[0].model, found.models[0].accuracy.value) == (BASE, 0.4)


async def test_progress_counts_over_all_models_in_batches() -> None:
    seen: list[tuple[int, int]] = []
    server = FakeServer({BASE: 1, "policy-000003": 1}, active=3)
    await evaluate(
        config("Base=base", "PPO=policy", batch_size=4),
        server,
        lambda done, total: seen.append((done, total)),
    )
    assert seen == [(4, 20), (8, 20), (10, 20), (14, 20), (18, 20), (20, 20)]
    assert Counter(server.log)[f"complete {BASE} 4"] == 2


async def test_a_failure_removes_the_upload_and_is_what_is_raised(tmp_path: Path) -> None:
    server = FakeServer({"policy-000007": 3})
    server.failure, server.fails_after = ServerUnreachableError("gone"), 1
    with pytest.raises(ServerUnreachableError, match="gone"):
        await run(server, config(f"SFT={adapter(tmp_path / 'sft')}", batch_size=5))
    assert server.log[-1] == "delete 7"
    assert not server.versions


async def test_a_failing_removal_does_not_hide_the_first_failure(tmp_path: Path) -> None:
    class Broken(FakeServer):
        async def delete_adapter(self, version: int) -> None:
            raise ServerUnreachableError("cannot delete")

    server = Broken({})
    server.failure = ServerUnreachableError("gone")
    with pytest.raises(ServerUnreachableError, match="gone"):
        await run(server, config(f"SFT={adapter(tmp_path / 'sft')}"))


async def test_removal_waits_for_aborted_requests(tmp_path: Path) -> None:
    server = FakeServer({"policy-000007": 3})
    server.num_busy_deletes = 2
    with stamina.set_testing(True, attempts=3):
        await run(server, config(f"SFT={adapter(tmp_path / 'sft')}"))
    assert not server.versions


async def test_answers_count_although_the_upload_cannot_be_removed(tmp_path: Path) -> None:
    server = FakeServer({"policy-000007": 3})
    server.num_busy_deletes = 99
    with stamina.set_testing(True, attempts=3):
        found = await run(server, config(f"SFT={adapter(tmp_path / 'sft')}"))
    assert found.models[0].accuracy.value == 0.3


async def test_a_number_that_a_run_takes_in_between_is_left_to_it(tmp_path: Path) -> None:
    class Shared(FakeServer):
        async def push_adapter(
            self, version: int, folder: Path, *, activate: bool = True
        ) -> AdapterInfo:
            if version == 7:
                self.next_version = 8
                raise ConflictError(409, "version 7 is served with digest 0")
            return await super().push_adapter(version, folder, activate=activate)

    server = Shared({"policy-000008": 3})
    with stamina.set_testing(True, attempts=2):
        found = await run(server, config(f"SFT={adapter(tmp_path / 'sft')}"))
    assert found.models[0].accuracy.value == 0.3
    assert not server.versions


async def test_an_upload_that_a_run_displaces_between_batches_is_uploaded_again(
    tmp_path: Path,
) -> None:
    class Displacing(FakeServer):
        async def complete(
            self, version: int | None, questions: list[str], prompt: GreedyPrompt
        ) -> list[TextCompletion]:
            if version not in self.versions:
                raise NotFoundError(404, f"version {version} is not loaded")
            found = await super().complete(version, questions, prompt)
            self.versions.clear()
            return found

    server = Displacing({"policy-000007": 3})
    with stamina.set_testing(True, attempts=3):
        found = await run(server, config(f"SFT={adapter(tmp_path / 'sft')}", batch_size=5))
    assert found.models[0].accuracy.value == 0.3
    assert Counter(server.log)["push 7 sft"] == 2


async def test_an_upload_that_the_server_retired_by_itself_is_no_error(tmp_path: Path) -> None:
    class Retiring(FakeServer):
        async def complete(
            self, version: int | None, questions: list[str], prompt: GreedyPrompt
        ) -> list[TextCompletion]:
            self.versions.clear()
            return await super().complete(version, questions, prompt)

    server = Retiring({"policy-000007": 3})
    found = await run(server, config(f"SFT={adapter(tmp_path / 'sft')}"))
    assert found.models[0].accuracy.value == 0.3


async def test_a_version_without_a_folder_that_is_retired_meanwhile_is_named() -> None:
    class Retiring(FakeServer):
        async def complete(
            self, version: int | None, questions: list[str], prompt: GreedyPrompt
        ) -> list[TextCompletion]:
            if version not in self.versions:
                raise NotFoundError(404, f"version {version} is not loaded")
            found = await super().complete(version, questions, prompt)
            self.versions = {13: adapter_with(13)}
            return found

    server = Retiring({"policy-000012": 3}, active=12)
    with pytest.raises(
        UsageError,
        match=r"^policy-000012 was retired by the server .*\(now there are base, policy-000013\): name its adapter folder",
    ):
        await run(server, config("PPO=policy-000012", batch_size=5))
    server = Retiring({"policy-000012": 3}, active=12)
    server.failure = NotFoundError(404, "no such route")
    with pytest.raises(NotFoundError, match="no such route"):
        await run(server, config("PPO=policy-000012"))


async def test_the_result_is_written_whole(tmp_path: Path) -> None:
    output = tmp_path / "new" / "evaluation.json"
    found = await run(FakeServer({BASE: 3}), config("Base=base", output=output))
    assert Evaluation.read(output) == found
    assert sorted(output.parent.iterdir()) == [answers_path(output), output]
    answers = list(read_answers(answers_path(output)))
    assert [(q.id, q.question, q.gold) for q in answers] == [
        (r.id, r.question, r.gold) for r in RECORDS
    ]
    assert answers[2].models["Base"].greedy.text == RECORDS[2].gold
    assert answers[3].models["Base"].greedy.text == "I give up."


async def test_the_arms_are_asked_of_the_same_version_without_golds(tmp_path: Path) -> None:
    server = FakeServer({BASE: 2, "policy-000007": 8})
    spec = {"system_prompt": "", "temperature": 0.5, "top_p": 1.0}
    asked = config(
        "Base=base",
        f"SFT={adapter(tmp_path / 'sft')}",
        samples_per_arm=1,
        seed=5,
        arm="solo_0",
        arms=({"name": "solo_0", **spec}, {"name": "solo_1", **spec}),
        output=tmp_path / "evaluation.json",
    )
    # Greedy prompts are of the custom arm, which the fake does not know: all of them are wrong.
    found = await run(server, asked)
    assert [line for line in server.log if line.startswith("generate")] == [
        "generate base 10 seed 5",
        "generate 7 10 seed 5",
    ]
    passes = [{at.k: at.chance.value for at in m.arms.pass_at} for m in found.models if m.arms]
    assert passes == [{1: 0.1, 2: 0.2}, {1: 0.4, 2: 0.8}]
    assert [m.arms.consensus.value for m in found.models if m.arms] == [0.2, 0.8]
    assert [d.measure for d in found.differences] == ["greedy", "pass@1", "maj"]
    (line, *_) = read_answers(tmp_path / "evaluation.answers.jsonl")
    arms = line.models["SFT"].arms
    assert arms is not None
    assert [c.arm for c in arms.completions] == ["solo_0", "solo_1"]


@pytest.mark.parametrize(("arm", "greedy"), [(None, "own_1"), ("own_0", "own_0")])
async def test_the_first_of_the_arms_is_asked_greedily_unless_another_is_named(
    arm: str | None, greedy: str
) -> None:
    server = FakeServer({BASE: 2})
    spec = {"temperature": 0.5, "top_p": 1.0}
    arms = [{"name": name, "system_prompt": f"As {name}.", **spec} for name in ("own_1", "own_0")]
    found = await run(server, config("Base=base", arms=arms, arm=arm))
    assert found.arm == greedy
    assert {prompt.system_prompt for prompt in server.prompts} == {f"As {greedy}."}


async def test_completions_that_the_server_gave_up_are_never_counted() -> None:
    server = FakeServer({BASE: 2})
    server.finish_reason = FinishReason.ABORT
    asked = config("Base=base", samples_per_arm=1, server={"give_up_after_s": 0})
    with pytest.raises(ServerError, match=r"aborted group 'word-problems.*1 times within 0 s"):
        await run(server, asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ("base",)}, "'base' is not LABEL=WHAT"),
        ({"models": ("=base",)}, "'=base' is not LABEL=WHAT"),
        ({"models": ("Base=",)}, "'Base=' is not LABEL=WHAT"),
        ({"models": ("A=base", "A=policy")}, "the label 'A' is given twice"),
        ({"models": ("PPO=policy-12",)}, "no adapter_config.json in policy-12"),
        ({"models": ("PPO=nowhere",)}, "no adapter_config.json in nowhere"),
        (
            {"arm": "wolfram_9"},
            "eval.arm (--arm): 'wolfram_9' is not one of the arms that are asked: wolfram_0",
        ),
        ({"output": Path("/")}, "/ is a folder"),
        ({"output": Path("/dev/null/x/evaluation.json")}, "/dev/null/x: Not a directory"),
    ],
)
async def test_what_cannot_be_evaluated_is_refused_before_anything_is_sent(
    changes: dict[str, Any], message: str
) -> None:
    class Untouchable(FakeServer):
        async def status(self) -> ServerStatus:
            raise AssertionError("asked the server")

    with pytest.raises(UsageError) as raised:
        await run(Untouchable({}), EvaluationConfig(**changes))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "sft")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"no adapter_model\.safetensors in"):
        await run(FakeServer({}), config(f"SFT={folder}"))


async def test_a_question_too_long_for_the_context_is_left_out_and_named(
    tiny_base: Path, tmp_path: Path
) -> None:
    class Local(FakeServer):
        async def status(self) -> ServerStatus:
            return (await super().status()).model_copy(update={"base_model": str(tiny_base)})

        async def complete(
            self, version: int | None, questions: list[str], prompt: GreedyPrompt
        ) -> list[TextCompletion]:
            if "long" in "".join(questions):
                raise ServerRejectedError(400, "exceed the model's context")
            return await super().complete(version, questions, prompt)

    asked = [(record.question, record.gold) for record in RECORDS]
    asked.insert(3, ("long " * 3000, "1"))
    source, said = tmp_path / "own.jsonl", list[str]()
    source.write_text(
        "".join(json.dumps({"question": q, "answer": gold}) + "\n" for q, gold in asked)
    )
    changes = {"data": str(source), "max_tokens": 9}
    given = config("Base=base").model_copy(update={**changes, "num_questions": 11})
    found = await evaluate(given, Local({BASE: 4}), ignore_progress, said.append)
    assert (found.num_questions, found.models[0].accuracy.value) == (10, 0.4)
    (line,) = said
    assert line.startswith("data: 1 of 11 questions left out, such as own-000004")
    assert "context of 1024 less max_tokens 9" in line
    source.write_text(json.dumps({"question": "long " * 3000, "answer": "1"}))
    with pytest.raises(DataError, match="no question can be asked; data: 1 of 1 questions left"):
        await evaluate(given, Local({}), ignore_progress, said.append)


async def test_a_missing_data_file_is_refused() -> None:
    with pytest.raises(DataError, match=r"nothing\.jsonl"):
        await run(FakeServer({}), config("Base=base", data="nothing.jsonl"))


async def test_a_version_that_is_not_served_is_refused() -> None:
    server = FakeServer({}, active=3)
    with pytest.raises(
        UsageError, match=r"policy-000012 is not served \(but base, policy-000003\)"
    ):
        await run(server, config("PPO=policy-000012"))
    assert server.log == []


def test_the_command_prints_the_table_and_closes_the_connection(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FakeServer({BASE: 2, "policy-000003": 9}, active=3)
    monkeypatch.setattr("trainer.evaluation.ask.ArmsClient", lambda _: server)
    run_evaluation(config("Base=base", "PPO=policy"))
    printed = capsys.readouterr().out
    assert "PPO − Base" in printed
    assert "+70.0" in printed
    assert server.log[-1] == "closed"


def test_the_command_says_that_somebody_s_own_configuration_tells_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = adapter(tmp_path / "adapters" / "mine")
    (tmp_path / "config.toml").write_text("[mine]\n")
    server = FakeServer({BASE: 2, f"policy-{NEXT_VERSION:06d}": 9})
    monkeypatch.setattr("trainer.evaluation.ask.ArmsClient", lambda _: server)
    run_evaluation(config("Base=base", f"Mine={folder}"))
    printed = capsys.readouterr().out.replace("\n", "")
    assert "config.toml: not the settings that a command has kept" in printed


@pytest.mark.parametrize("explicit", [False, True])
def test_what_was_trained_on_is_found_among_the_questions(explicit: bool, tmp_path: Path) -> None:
    rows = [{"question": f"What is {i} plus {i}?", "answer": f"#### {2 * i}"} for i in range(8)]
    source = tmp_path / "own.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_folder = tmp_path / "run"
    folder = adapter(run_folder / "adapters" / "policy-000001")
    (run_folder / "config.toml").write_text(f'[ppo]\n[data]\nsource = "{source}#train"\n')
    asked = config("Base=base", f"PPO={folder}", data=f"{source}#held_out")
    (line,) = contamination_lines(asked)
    assert line.startswith("contamination: ")
    assert "worthless" not in line
    changes = {"train_data": str(source)} if explicit else {"data": str(source)}
    (line,) = contamination_lines(asked.model_copy(update=changes))
    assert "which makes their accuracy worthless" in line
    assert contamination_lines(config("Base=base")) == []


@pytest.mark.parametrize(
    ("settings", "is_found"),
    [
        (None, True),
        ("[ppo]\n[data]\nnum_questions = 20003\n", True),
        ("[ppo]\n[data]\nnum_questions = 20002\n", False),
        # How many questions an SFT is trained on is a setting of its own.
        ("[data]\n[sft]\nnum_examples = 30000\n", True),
        ("[data]\n[sft]\nnum_examples = 2000\n", False),
    ],
)
def test_all_questions_of_a_file_that_were_trained_on_are_compared(
    settings: str | None, is_found: bool, tmp_path: Path
) -> None:
    source, asked = tmp_path / "own.jsonl", tmp_path / "asked.jsonl"
    row = '{"question": "What is %s?", "answer": "#### 1"}\n'
    source.write_text("".join(row % f"{i} minus {i - 1}" for i in range(20_003)))
    asked.write_text(row % "20002 minus 20001")
    model, given = "Base=base", {"train_data": str(source)}
    if settings is not None:
        folder = adapter(
            tmp_path / ("sft" if "[sft]" in settings else "run/adapters/policy-000001")
        )
        kept = folder if "[sft]" in settings else tmp_path / "run"
        (kept / "config.toml").write_text(
            settings.replace("[data]", f'[data]\nsource = "{source}"')
        )
        model, given = f"PPO={folder}", {}
    (line,) = contamination_lines(config(model, data=str(asked), **given))
    assert ("which makes their accuracy worthless" in line) is is_found


def test_training_questions_that_cannot_be_read_stop_no_evaluation(tmp_path: Path) -> None:
    source, trained_on = tmp_path / "asked.jsonl", tmp_path / "trained.jsonl"
    source.write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    trained_on.write_text('{"problem": "What is 1 + 1?", "solution": "2"}\n')
    asked = config("Base=base", data=str(source), train_data=str(trained_on))
    (line,) = contamination_lines(asked)
    assert line.startswith(
        f"warning: whether {source} has questions of {trained_on} (training) was"
    )
    assert "no column 'question'" in line


@pytest.mark.parametrize(
    ("content", "is_kept"),
    [
        ('{"question": "mine"}\n', True),
        ('{"models": []}', True),
        ('{"models": [], "num_questions": 1}', True),
        ("", False),
    ],
)
async def test_an_output_is_replaced_only_where_it_is_an_evaluation(
    content: str, is_kept: bool, tmp_path: Path
) -> None:
    output = tmp_path / "mine.jsonl"
    output.write_text(content)
    asked = config("Base=base", output=output)
    if is_kept:
        with pytest.raises(
            UsageError, match=r"output: .*mine\.jsonl exists, was not written by an evaluation"
        ):
            await run(FakeServer({BASE: 3}), asked)
        assert output.read_text() == content
    else:
        await run(FakeServer({BASE: 3}), asked)
        assert Evaluation.read(output).num_questions == len(RECORDS)
        await run(FakeServer({BASE: 3}), asked)
        answers_path(output).write_text("mine\n")
        with pytest.raises(
            UsageError, match=r"mine\.answers\.jsonl exists, was not written by an evaluation"
        ):
            await run(FakeServer({BASE: 3}), asked)
        assert answers_path(output).read_text() == "mine\n"


def trained_on(folder: Path, fingerprint: str | None, **more: str) -> None:
    record = BaseRecord(base_model="models/theirs", fingerprint=fingerprint, **more)
    write_base(folder, record)


async def test_an_adapter_of_another_base_is_refused_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    server = FakeServer({BASE: 2, "policy-000007": 5})
    version = adapter(tmp_path / "run/adapters/policy-000012")
    trained_on(tmp_path / "run", "trained")
    with pytest.raises(UsageError) as caught:
        await run(server, config("Base=base", f"PPO={tmp_path / 'run'}"))
    assert str(caught.value) == (
        f"models: {version} was trained on models/theirs with fingerprint trained, not on {BASE} with served, which "
        "the server serves: serve the former, or name an adapter of the latter. If both are the same weights in other "
        "files, remove the base.json of the adapter or of its run"
    )
    assert server.log == []


@pytest.mark.parametrize(
    ("fingerprint", "more", "served"),
    [
        ("served", {}, "served"),
        (None, {}, "served"),
        ("trained", {}, None),
        # In 4 bits the server has other files than the trainer.
        ("trained", {"quantization": "nf4", "served_fingerprint": "served"}, "served"),
        ("trained", {"quantization": "nf4"}, "served"),
    ],
)
async def test_an_adapter_of_the_same_or_an_unknown_base_is_evaluated(
    fingerprint: str | None, more: dict[str, str], served: str | None, tmp_path: Path
) -> None:
    server = FakeServer({"policy-000007": 5})
    server.base_fingerprint = served
    trained_on(sft := adapter(tmp_path / "sft"), fingerprint, **more)
    output = tmp_path / "evaluation.json"
    await run(server, config(f"SFT={sft}", output=output))
    assert Evaluation.read(output).base_fingerprint == served


async def test_an_adapter_in_4_bits_belongs_to_what_its_run_was_served(tmp_path: Path) -> None:
    server = FakeServer({"policy-000007": 5})
    trained_on(
        sft := adapter(tmp_path / "sft"), "served", quantization="nf4", served_fingerprint="other"
    )
    with pytest.raises(UsageError, match=f"fingerprint other, not on {BASE} with served"):
        await run(server, config(f"SFT={sft}"))
