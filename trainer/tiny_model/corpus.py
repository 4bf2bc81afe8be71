"""The text that the tiny base model learns from: its tokenizer, its prompts and its batches.

The corpus has word problems, solved in the ``base_style`` (the habits of a weak model), mostly under the bare problem
text and sometimes under an arm's prompt. In addition it has rows of bare equations.
"""

import json
import random
from collections.abc import Iterator
from itertools import islice

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from regime_w import build_all_arms, build_prompt
from trainer.data.word_problems import (
    OPERATIONS,
    THINGS,
    Split,
    Style,
    base_style,
    draw_step,
    word_problems,
)

EOS_TOKEN = "<|end|>"
PAD_TOKEN = "<|pad|>"

_IGNORED_LABEL = -100
_CORPUS_SEED = 17
_ARM_PROMPT_FRACTION = 0.15
_EQUATIONS_PER_DRILL = 7


def bare_prompt(question: str) -> str:
    """The text before a solution in the base model's corpus: no system prompt."""
    return f"Problem:\n{question}\n\nSolution:\n"


def _chat_template() -> str:
    """Renders a chat like the corpus: `build_prompt` with a system message, else `bare_prompt`."""
    literal = json.dumps
    before, after = (literal(part) for part in build_prompt("", "\0").split("\0"))
    bare_before = literal(bare_prompt("\0").split("\0")[0])
    return (
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + " + before + " }}"
        "{% else %}{{ " + bare_before + " }}{% endif %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ message['content'] + " + after + " }}"
        "{% elif message['role'] == 'assistant' %}"
        "{{ message['content'] + '\\n\\n' + " + bare_before + " }}"
        "{% endif %}{% endfor %}"
    )


def train_tokenizer(*, vocab_size: int, max_length_tokens: int) -> Qwen2Tokenizer:
    """A Qwen2 tokenizer with its own merges; an arm's prompt around a question is two tokens.

    Qwen2's rules split numbers into single digits. The class must be Qwen2's own: Transformers and
    vLLM load it for every ``qwen2`` model, whatever the folder's tokenizer_config.json says.
    """
    arms = build_all_arms()
    frame_pieces = sorted(
        {piece for arm in arms for piece in build_prompt(arm.system_prompt, "\0").split("\0")}
        | set(bare_prompt("\0").split("\0"))
    )
    empty = Qwen2Tokenizer(eos_token=EOS_TOKEN, pad_token=PAD_TOKEN, unk_token=EOS_TOKEN)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = empty.backend_tokenizer.pre_tokenizer
    texts: list[str] = []
    for problem in islice(word_problems(Split.TRAIN, seed=_CORPUS_SEED), 3000):
        texts += [problem.question, *(problem.solution(style) for style in Style)]
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - len(frame_pieces) - 2,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    trained = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(merge) for merge in trained["merges"]],
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        unk_token=EOS_TOKEN,
        model_max_length=max_length_tokens,
    )
    tokenizer.chat_template = _chat_template()
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in frame_pieces])
    return tokenizer


_Row = list[tuple[str, bool]]
"""Pieces of text, each with whether the loss is on it. No token spans two pieces."""


def _problem_rows(seed: int) -> Iterator[_Row]:
    """Endless word problems; the loss is on the solutions."""
    rng = random.Random(f"tiny-corpus/{seed}")
    prompts = [arm.system_prompt for arm in build_all_arms()]
    for problem in word_problems(Split.TRAIN, seed=_CORPUS_SEED + 1):
        if rng.random() < _ARM_PROMPT_FRACTION:
            prompt = build_prompt(rng.choice(prompts), problem.question)
        else:
            prompt = bare_prompt(problem.question)
        yield [(prompt, False), (problem.solution(base_style(problem, rng)) + EOS_TOKEN, True)]


def _drill_rows(seed: int) -> Iterator[_Row]:
    """Endless rows of bare equations in the form of the solutions; the loss is on the results."""
    rng = random.Random(f"tiny-drills/{seed}")
    while True:
        row: _Row = []
        while len(row) < 2 * _EQUATIONS_PER_DRILL:
            if step := draw_step(rng, rng.choice(OPERATIONS)):
                left, right = step.text(rng.choice(THINGS), annotated=False).split("=")
                row += [(f"{left}=", False), (right, True)]
        yield row


def batches(
    tokenizer: Qwen2Tokenizer, *, num_problems: int, num_drills: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of the corpus: ``input_ids`` and ``labels``, each [num_problems + num_drills, T].

    Args:
        tokenizer: From `train_tokenizer`.
        num_problems: Word problems in a batch.
        num_drills: Rows of bare equations in a batch, in addition.
        seed: Seed of the corpus.
    """
    problems, drills = _problem_rows(seed), _drill_rows(seed)
    while True:
        rows = [*islice(problems, num_problems), *islice(drills, num_drills)]
        encoded = iter(tokenizer([text for row in rows for text, _ in row])["input_ids"])
        tokens = [[(i, trained) for _, trained in row for i in next(encoded)] for row in rows]
        width = max(map(len, tokens))
        input_ids = torch.full((len(rows), width), tokenizer.pad_token_id)
        labels = torch.full((len(rows), width), _IGNORED_LABEL)
        for i, row_tokens in enumerate(tokens):
            input_ids[i, : len(row_tokens)] = torch.tensor([t for t, _ in row_tokens])
            labels[i, : len(row_tokens)] = torch.tensor(
                [t if trained else _IGNORED_LABEL for t, trained in row_tokens]
            )
        yield input_ids, labels
