"""The journal: what a kill, a flipped bit or a second trainer does to it, and what is read back."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_server.wire.digests import sha256_of_bytes
from inference_server.wire.schemas import ArmCompletion, ArmGroup, FinishReason
from regime_w import RewardConfig
from trainer.data.sources import Record
from trainer.errors import JournalError, UsageError
from trainer.rollouts.groups import ScoredGroup, score_group
from trainer.rollouts.questions import PendingQuestions
from trainer.run_state.journal import Journal
from trainer.run_state.journal_entries import JournaledAdapter, JournaledStep, rollouts_file
from trainer.run_state.journal_reader import JournalReader

REWARD = RewardConfig()


def group_of(step: int, name: str) -> ScoredGroup:
    completions = [
        ArmCompletion(
            arm=f"arm_{i}",
            sample=0,
            text=f"2 + {i} = {2 + i}\n#### {2 + i} – ½",
            finish_reason=FinishReason.STOP if i else FinishReason.LENGTH,
            temperature=0.3 + i / 7,
            top_p=0.95,
            seed=i,
            prompt_token_ids=[1, 2, step],
            token_ids=[3, 4 + i],
            logprobs=[-1 / 3 - step, -1e-17],
        )
        for i in range(3)
    ]
    group = ArmGroup(id=name, question=f"{name}?", policy_version=step, arms=completions)
    return score_group(Record(id=name, question=f"{name}?", gold="#### 3"), group, REWARD)


def step_entry(step: int) -> JournaledStep:
    return JournaledStep(
        step=step,
        version=step,
        learning_rate_scale=1 / 3,
        num_threads=1,
        num_ranks=1,
        cursor=2 * step,
        pending=(PendingQuestions(records=("a",), spares=(), salt=step, version=step),),
        solved={"a": True, "b": False},
        metrics={"reward/mean": 1 / 7},
        reward_sources={},
    )


def adapter(step: int) -> JournaledAdapter:
    return JournaledAdapter(
        step=step, version=step + 5, sha256=f"{step:064x}", dtype="float32", token_budget=64
    )


def write(folder: Path, num_steps: int) -> None:
    """A run's journal after some steps."""
    with Journal(folder) as journal:
        journal.write_adapter(adapter(0))
        for step in range(1, num_steps + 1):
            journal.write_step([group_of(step, "a"), group_of(step, "b")], step_entry(step))
            journal.write_adapter(adapter(step))


@contextmanager
def written(num_steps: int) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        write(Path(folder), num_steps)
        yield Path(folder)


def test_what_was_written_is_read_back_exactly(tmp_path: Path) -> None:
    assert JournalReader(tmp_path).last_step == 0
    assert JournalReader(tmp_path).next_version == 0
    write(tmp_path, 3)
    journal = JournalReader(tmp_path)
    assert (journal.last_step, journal.next_version, journal.damaged_lines) == (3, 9, {})
    assert journal.adapters == [adapter(step) for step in range(4)]
    assert journal.adapters_of(2) == [adapter(2)]
    for step in (3, 1, 2):
        entry = journal.step(step)
        assert entry.model_copy(update={"rollouts_sha256": ""}) == step_entry(step)
        scored = [group_of(step, name) for name in ("a", "b")]
        stored = journal.groups(entry)
        assert [group.samples for group in stored] == [group.samples for group in scored]
        assert [group.scored(REWARD).rewards for group in stored] == [g.rewards for g in scored]
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".unfinished")]


# --- kills -----------------------------------------------------------------------------------------


@given(cut=st.floats(0, 1), num_steps=st.integers(0, 2))
@settings(max_examples=30)
def test_of_a_journal_cut_anywhere_the_whole_lines_count(cut: float, num_steps: int) -> None:
    with written(num_steps) as folder:
        path = folder / "journal.jsonl"
        data = path.read_bytes()
        kept = data[: round(cut * len(data))]
        path.write_bytes(kept)
        journal = JournalReader(folder)
        num_whole = kept.count(b"\n")
        assert len(journal.adapters) == (num_whole + 1) // 2
        assert journal.last_step == num_whole // 2
        assert journal.damaged_lines == {}
        # The next start takes the torn line away, and goes on after the whole ones.
        with Journal(folder) as again:
            again.write_adapter(adapter(9))
        assert path.read_bytes().splitlines()[:-1] == data.splitlines()[:num_whole]
        assert JournalReader(folder).adapters[-1] == adapter(9)


def test_a_last_line_of_zeros_counts_as_torn(tmp_path: Path) -> None:
    """As a power cut can leave it: the size is on the disk, the data is not."""
    write(tmp_path, 1)
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + b"\0" * (len(lines[-1]) - 1) + b"\n")
    journal = JournalReader(tmp_path)
    assert (journal.last_step, journal.adapters) == (1, [adapter(0)])
    assert journal.damaged_lines == {}


def test_a_step_taken_back_was_never_there(tmp_path: Path) -> None:
    write(tmp_path, 2)
    before = (tmp_path / "journal.jsonl").read_bytes()
    with Journal(tmp_path) as journal:
        journal.write_step([group_of(3, "a")], step_entry(3))
        journal.take_back(3)
    assert (tmp_path / "journal.jsonl").read_bytes() == before
    assert not rollouts_file(tmp_path, 3).exists()
    write(tmp_path, 3)
    assert JournalReader(tmp_path).last_step == 3


def test_rollouts_without_a_line_are_those_of_a_killed_run_and_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with Journal(tmp_path) as journal:
        journal.write_step([group_of(2, "b")], step_entry(2))
        journal.take_back(2)
        rollouts_file(tmp_path, 2).write_text("half of it")
        journal.write_step([group_of(2, "a")], step_entry(2))
    journal_read = JournalReader(tmp_path)
    (group,) = journal_read.groups(journal_read.step(2))
    assert group.id == "a"


# --- damage ----------------------------------------------------------------------------------------


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60)
def test_a_flipped_bit_costs_its_line_and_no_other(place: float, bit: int) -> None:
    with written(2) as folder:
        path = folder / "journal.jsonl"
        data = bytearray(path.read_bytes())
        index = int(place * len(data))
        ends = [i for i, byte in enumerate(data) if byte == ord("\n")]
        line = next(number for number, end in enumerate(ends) if index <= end)
        data[index] ^= 1 << bit
        path.write_bytes(data)
        journal = JournalReader(folder)
        steps, adapters = {1: (1, 0), 3: (2, 0)}, {0: 0, 2: 1, 4: 2}
        lost = {line, line + 1} if index in ends else {line}
        assert [a.step for a in journal.adapters] == [
            step for number, step in adapters.items() if number not in lost
        ]
        for number, (step, _) in steps.items():
            if number in lost:
                with pytest.raises(
                    JournalError, match=f"step {step}: .*no line for this step"
                ) as caught:
                    journal.step(step)
                assert caught.value.step == step
            else:
                assert journal.step(step).step == step
        assert journal.damaged_lines or 4 in lost


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=30)
def test_a_bit_flipped_in_rollouts_names_their_step(place: float, bit: int) -> None:
    with written(2) as folder:
        path = rollouts_file(folder, 2)
        data = bytearray(path.read_bytes())
        data[int(place * len(data))] ^= 1 << bit
        path.write_bytes(data)
        journal = JournalReader(folder)
        assert len(journal.groups(journal.step(1))) == 2
        with pytest.raises(
            JournalError, match=r"step 2: .*step-000002\.jsonl was changed"
        ) as caught:
            journal.groups(journal.step(2))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damaged", "step", "first_lost"),
    [
        ((), 2, 3),
        ((3,), 2, 3),
        # Directly ahead of the step's line, and not: what lies between is kept.
        ((2,), 2, 2),
        ((1,), 2, 3),
        ((0, 1, 2), 2, 0),
        ((5,), 3, 5),
        ((), 4, 7),
    ],
)
def test_a_journal_is_cut_ahead_of_a_step(
    damaged: tuple[int, ...], step: int, first_lost: int, tmp_path: Path
) -> None:
    write(tmp_path, 3)  # adapter 0, step 1, adapter 1, step 2, adapter 2, step 3, adapter 3
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(b"{\n" if i in damaged else line for i, line in enumerate(lines)))
    sizes = [2 if i in damaged else len(line) for i, line in enumerate(lines)]
    assert JournalReader(tmp_path).num_bytes_before(step) == sum(sizes[:first_lost])


def test_rollouts_that_are_gone_name_their_step(tmp_path: Path) -> None:
    write(tmp_path, 2)
    rollouts_file(tmp_path, 1).unlink()
    journal = JournalReader(tmp_path)
    with pytest.raises(JournalError, match=r"step 1: .*step-000001\.jsonl: No such file"):
        journal.groups(journal.step(1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": -1.0}, "arm_outputs.1.temperature: "),
        ({"temperature": float("inf")}, "arm_outputs.1.temperature: "),
        ({"top_p": 0.0}, "arm_outputs.1.top_p: "),
        ({"top_p": float("nan")}, "arm_outputs.1.top_p: "),
        ({"token_ids": [3, -4]}, "arm_outputs.1.token_ids.1: "),
        ({"token_ids": [3, 500]}, "arm_1: token id 500, and policy.base_model has 500 tokens"),
        ({"prompt_token_ids": [10**30]}, "arm_1: token id 1000"),
        ({"token_ids": [3]}, "arm_outputs.1: 2 sampler_logprobs for 1 token_ids"),
        ({"token_ids": [], "sampler_logprobs": []}, "arm_1: no token_ids with their"),
        ({"sampler_logprobs": [float("nan"), -1]}, "arm_outputs.1.sampler_logprobs.0: "),
        ({"sampler_logprobs": [-1, 0.5]}, "arm_outputs.1.sampler_logprobs.1: "),
        ({"reward": float("inf")}, "arm_outputs.1.reward: "),
        ({"full_text": None}, "arm_outputs.1.full_text: "),
    ],
)
def test_rollouts_that_cannot_be_trained_on_name_their_place(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    """With a digest that fits, as another program may have written them."""
    write(tmp_path, 1)
    journal, path = JournalReader(tmp_path), rollouts_file(tmp_path, 1)
    assert len(journal.groups(journal.step(1), vocab_size=500)) == 2
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["arm_outputs"][1] |= change
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(data)
    entry = journal.step(1).model_copy(update={"rollouts_sha256": sha256_of_bytes(data)})
    with pytest.raises(JournalError) as caught:
        journal.groups(entry, vocab_size=500)
    assert f"step 1: {path}:2: {said}" in str(caught.value)
    assert "\n" not in str(caught.value)


# --- one at a time -----------------------------------------------------------------------------------


def test_a_second_trainer_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(UsageError, match="another trainer is at work"):
        Journal(tmp_path)
    with Journal(tmp_path):
        pass


def test_a_reader_does_not_disturb_a_run_that_goes_on(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write_step([group_of(1, "a")], step_entry(1))
        reader = JournalReader(tmp_path)
        journal.write_step([group_of(2, "a")], step_entry(2))
        assert reader.last_step == 1
        assert reader.step(1).step == 1
        assert JournalReader(tmp_path).last_step == 2
