"""The tiny base model: its tokenizer, its corpus, and when it is built again."""

import hashlib
import json
import re
import unicodedata
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Tokenizer

from regime_w import ArmSpec, build_all_arms, build_prompt
from trainer.data.word_problems import Split, Style, word_problems
from trainer.errors import UsageError
from trainer.tiny_model.build import build_tiny_model
from trainer.tiny_model.corpus import EOS_TOKEN, PAD_TOKEN, bare_prompt, batches, train_tokenizer
from trainer.tiny_model.pretraining import TinyModelRecipe, untrained_model
from trainer.tiny_model.weights import TINY_WEIGHTS, load_tiny_weights

SMALL = TinyModelRecipe(
    hidden_size=16, num_layers=1, num_heads=2, num_steps=2, batch_size=2, num_drills=1
)
PROBLEMS = list(islice(word_problems(Split.HELD_OUT), 100))


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return train_tokenizer(vocab_size=512, max_length_tokens=512)


def ids(tokenizer: Qwen2Tokenizer, text: str) -> list[int]:
    found: list[int] = tokenizer(text)["input_ids"]
    return found


# --- tokenizer -------------------------------------------------------------------------------------


@given(text=st.text(max_size=60).map(lambda text: unicodedata.normalize("NFC", text)))
def test_any_text_comes_back_from_its_tokens(text: str, tokenizer: Qwen2Tokenizer) -> None:
    assert tokenizer.decode(ids(tokenizer, text)) == text


@pytest.mark.parametrize("style", Style)
def test_problems_and_solutions_come_back_from_their_tokens(
    style: Style, tokenizer: Qwen2Tokenizer
) -> None:
    for problem in PROBLEMS:
        for text in (problem.question, problem.solution(style), problem.answer):
            assert tokenizer.decode(ids(tokenizer, text)) == text


def test_digits_are_single_tokens(tokenizer: Qwen2Tokenizer) -> None:
    assert [tokenizer.decode([i]) for i in ids(tokenizer, "12+345=357")] == list("12+345=357")
    frames = set(tokenizer.get_added_vocab())
    learnt = set(tokenizer.get_vocab()) - frames
    assert len(learnt) > 256
    assert not [token for token in learnt if re.search(r"\d", token) and len(token) > 1]


@pytest.mark.parametrize("arm", build_all_arms(), ids=lambda arm: arm.name)
def test_an_arm_puts_one_token_before_and_one_after_the_question(
    arm: ArmSpec, tokenizer: Qwen2Tokenizer
) -> None:
    for problem in PROBLEMS[:20]:
        prompt = build_prompt(arm.system_prompt, problem.question)
        before, *question, after = ids(tokenizer, prompt)
        assert question == ids(tokenizer, problem.question)
        frame = tokenizer.decode([before]), tokenizer.decode([after])
        assert frame == tuple(prompt.split(problem.question))


def test_the_bare_prompt_is_framed_the_same_way(tokenizer: Qwen2Tokenizer) -> None:
    for problem in PROBLEMS[:20]:
        _, *question, _ = ids(tokenizer, bare_prompt(problem.question))
        assert question == ids(tokenizer, problem.question)


def test_a_chat_is_rendered_as_the_corpus_has_it(tokenizer: Qwen2Tokenizer) -> None:
    question = "Ada has 12 pens."
    system = {"role": "system", "content": build_all_arms()[0].system_prompt}
    user = {"role": "user", "content": question}
    one_turn = [user, {"role": "assistant", "content": "#### 12"}, user]
    for messages, prompt in [
        ([user], bare_prompt(question)),
        ([system, user], build_prompt(system["content"], question)),
        (one_turn, f"{bare_prompt(question)}#### 12\n\n{bare_prompt(question)}"),
    ]:
        assert tokenizer.apply_chat_template(messages, tokenize=False) == prompt


def test_a_prompt_and_a_completion_tokenize_apart_as_together(tokenizer: Qwen2Tokenizer) -> None:
    prompts = [build_prompt(build_all_arms()[0].system_prompt, "{}"), bare_prompt("{}")]
    for problem in PROBLEMS:
        for frame in prompts:
            prompt, solution = frame.format(problem.question), problem.solution(Style.FULL)
            assert ids(tokenizer, prompt + solution + EOS_TOKEN) == [
                *ids(tokenizer, prompt),
                *ids(tokenizer, solution),
                tokenizer.eos_token_id,
            ]


def test_solutions_are_short_enough_for_the_context(tokenizer: Qwen2Tokenizer) -> None:
    lengths = [
        len(ids(tokenizer, build_prompt(arm.system_prompt, problem.question) + problem.answer))
        for arm in build_all_arms()
        for problem in PROBLEMS
    ]
    assert max(lengths) < TinyModelRecipe().max_position_embeddings


def test_a_reloaded_tokenizer_gives_the_same_ids(
    tokenizer: Qwen2Tokenizer, tiny_base: Path
) -> None:
    reloaded = AutoTokenizer.from_pretrained(tiny_base)
    assert type(reloaded) is Qwen2Tokenizer
    assert reloaded.get_vocab() == tokenizer.get_vocab()
    assert (reloaded.eos_token, reloaded.pad_token) == (EOS_TOKEN, PAD_TOKEN)
    texts = [problem.answer for problem in PROBLEMS] + [
        build_prompt(arm.system_prompt, problem.question)
        for arm in build_all_arms()
        for problem in PROBLEMS[:5]
    ]
    for text in [*texts, "Grüße, 1,080 😀", f"#### 7{EOS_TOKEN}"]:
        assert ids(reloaded, text) == ids(tokenizer, text)


# --- model -----------------------------------------------------------------------------------------


def test_the_model_is_a_tiny_qwen2_that_fits_its_tokenizer(
    tiny_base: Path, tokenizer: Qwen2Tokenizer
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    assert model.config.model_type == "qwen2"
    assert 800_000 < untrained_model(TinyModelRecipe(), tokenizer).num_parameters() < 3_000_000
    assert max(tokenizer.get_vocab().values()) < model.config.vocab_size == 512
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.dtype == torch.float32


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_weights_and_reports_every_step(tmp_path: Path) -> None:
    steps: list[tuple[int, int, float]] = []
    one = build_tiny_model(tmp_path / "one", SMALL, lambda *step: steps.append(step))
    two = build_tiny_model(tmp_path / "two", SMALL)
    other = build_tiny_model(tmp_path / "other", replace(SMALL, seed=1))
    untrained = build_tiny_model(tmp_path / "untrained", replace(SMALL, num_steps=0))
    assert weights(one) == weights(two)
    assert len({weights(one), weights(other), weights(untrained)}) == 3
    assert [(step, total) for step, total, _ in steps] == [(1, 2), (2, 2)]
    assert all(loss > 0 for *_, loss in steps)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other", "two", "untrained"]


@pytest.mark.slow
def test_a_model_that_was_trained_here_is_left_alone_unless_trained_anew(tmp_path: Path) -> None:
    recipe = replace(SMALL, num_steps=0)
    folder = build_tiny_model(tmp_path / "model", recipe)
    mark = folder / "mark"
    mark.touch()
    assert build_tiny_model(folder, recipe) == folder
    assert mark.exists()
    other = replace(recipe, hidden_size=32)
    with pytest.raises(UsageError, match=r"output .*model: was trained here"):
        build_tiny_model(folder, other)
    assert mark.exists()
    build_tiny_model(folder, other, from_scratch=True)
    assert not mark.exists()
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 32


@pytest.mark.parametrize(
    "files",
    [
        ("thesis.txt",),
        ("tiny_model.json", "config.toml", "adapter_model.safetensors"),
        ("tiny_model.json", "sft/adapter_model.safetensors"),
    ],
)
def test_a_folder_of_something_else_is_left_alone(files: tuple[str, ...], tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    mine = tmp_path / files[-1]
    with pytest.raises(UsageError, match=r"output .*not the tiny model's"):
        build_tiny_model(tmp_path, replace(SMALL, num_steps=0))
    assert mine.exists()


@pytest.mark.parametrize("damage", ["missing", "cut", "no safetensors", "inverted"])
def test_damaged_weights_are_named(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.safetensors"
    whole = TINY_WEIGHTS.read_bytes()
    inverted = whole[:-1000] + bytes(byte ^ 0xFF for byte in whole[-1000:])
    damaged = {"cut": whole[:1000], "no safetensors": b"version https", "inverted": inverted}
    if damage in damaged:
        copy.write_bytes(damaged[damage])
    monkeypatch.setattr("trainer.tiny_model.weights.TINY_WEIGHTS", copy)
    with pytest.raises(UsageError, match=r"copy\.safetensors is damaged: .*--from_scratch"):
        load_tiny_weights(TinyModelRecipe().digest())


def test_a_model_of_another_revision_is_built_again(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tiny_model.json", "mark"):
        (folder / name).write_text('{"digest": "of another revision"}')
    recipe = replace(SMALL, num_steps=0)
    build_tiny_model(folder, recipe)
    assert not (folder / "mark").exists()
    assert json.loads((folder / "tiny_model.json").read_text())["recipe"] == asdict(recipe)


def test_every_setting_of_the_recipe_is_in_its_digest() -> None:
    changed = [
        replace(TinyModelRecipe(), **{name: value * 2 + 1})
        for name, value in asdict(TinyModelRecipe()).items()
    ]
    digests = {recipe.digest() for recipe in [TinyModelRecipe(), *changed]}
    assert len(digests) == len(changed) + 1
    assert TinyModelRecipe().digest() in digests


def test_a_change_of_the_tokenizer_or_the_corpus_is_noticed(tokenizer: Qwen2Tokenizer) -> None:
    recipe = TinyModelRecipe()
    rows = batches(
        tokenizer, num_problems=recipe.batch_size, num_drills=recipe.num_drills, seed=recipe.seed
    )
    first = [(ids.tolist(), labels.tolist()) for ids, labels in islice(rows, 2)]
    learnt_from = [tokenizer.get_vocab(), tokenizer.chat_template, first]
    found = hashlib.sha256(json.dumps(learnt_from, sort_keys=True).encode()).hexdigest()
    assert found == "1818c6cb889dd9f60a283787935a64276b9a0d43708208ebef1d9d6f60a927a6", (
        "raise _VERSION in trainer/tiny_model/pretraining.py, run what scripts/ship_tiny_model.py says, and "
        "write the new digest here"
    )


def test_the_weights_that_come_with_the_project_are_of_its_recipe() -> None:
    assert load_tiny_weights(TinyModelRecipe().digest()) is not None, (
        "the recipe or its version has changed: run what scripts/ship_tiny_model.py says"
    )
    assert load_tiny_weights("of another recipe") is None


@pytest.mark.slow
def test_the_weights_that_come_with_the_project_have_learnt_to_calculate(tmp_path: Path) -> None:
    steps: list[tuple[int, int, float]] = []
    folder = build_tiny_model(tmp_path / "model", on_step=lambda *step: steps.append(step))
    assert steps == []
    assert not json.loads((folder / "tiny_model.json").read_text())["trained_here"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    num_right = 0
    for left, right in [(17, 16), (12, 7), (29, 27), (3, 18), (20, 9), (14, 15), (31, 12), (24, 8)]:
        prompt = tokenizer(f"{left}+{right}=", return_tensors="pt")["input_ids"]
        completion = model.generate(prompt, max_new_tokens=2, do_sample=False)[0, prompt.shape[1] :]
        num_right += tokenizer.decode(completion) == str(left + right)
    assert num_right >= 6


@pytest.mark.slow
def test_a_model_from_scratch_is_trained_although_weights_come_with_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "trainer.tiny_model.build.load_tiny_weights", lambda digest: pytest.fail("loaded")
    )
    folder = tmp_path / "model"
    steps: list[tuple[int, int, float]] = []
    for _ in range(2):
        build_tiny_model(folder, SMALL, lambda *step: steps.append(step), from_scratch=True)
    assert [step for step, *_ in steps] == [1, 2, 1, 2]
    assert json.loads((folder / "tiny_model.json").read_text())["trained_here"]
