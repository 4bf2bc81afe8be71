"""The tiny base model: a Qwen2 of about a million parameters, made from nothing by code.

Its tokenizer splits digits singly and merges across spaces, so that an arm's fixed prompt is a
handful of tokens. Its corpus is word problems in the ``base_style`` (the habits of a weak model)
under the bare problem text and, seldom, under an arm's prompt. The same settings give the same
weights on the same machine with the same number of threads.
"""

import hashlib
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from regime_w import build_all_arms, build_prompt
from trainer.data import word_problems as word_problems_module
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

_MANIFEST = "tiny_model.json"
_IGNORED_LABEL = -100
_CORPUS_SEED = 17
_ARM_PROMPT_SHARE = 0.15
_EQUATIONS_PER_DRILL = 7


@dataclass(frozen=True, kw_only=True)
class TinyModelRecipe:
    """Everything that decides the weights of the tiny base model."""

    vocab_size: int = 512
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    max_position_embeddings: int = 512
    num_steps: int = 600
    batch_size: int = 48
    """Word problems of a step."""
    num_drills: int = 16
    """Rows of bare equations beside them: arithmetic is learnt faster from these."""
    learning_rate: float = 3e-3
    seed: int = 0

    def digest(self) -> str:
        """Names the recipe and this file's revision, so that a cached model is never stale."""
        sources = Path(__file__).read_bytes() + Path(word_problems_module.__file__).read_bytes()
        settings = json.dumps(asdict(self), sort_keys=True).encode()
        return hashlib.sha256(settings + sources).hexdigest()


def bare_prompt(question: str) -> str:
    """The text before a solution as the base model's corpus has it: no system prompt."""
    return f"Problem:\n{question}\n\nSolution:\n"


def _chat_template() -> str:
    """Renders a chat as the corpus has it: `build_prompt` with a system message, else `bare_prompt`."""
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


def train_tokenizer(recipe: TinyModelRecipe) -> Qwen2Tokenizer:
    """A Qwen2 tokenizer with its own merges; what an arm puts around a question is two tokens.

    Qwen2's rules split digits singly. The class must be Qwen2's own: Transformers and vLLM load it
    for every ``qwen2`` model, whatever the folder's tokenizer_config.json says.
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
            vocab_size=recipe.vocab_size - len(frame_pieces) - 2,
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
        model_max_length=recipe.max_position_embeddings,
    )
    tokenizer.chat_template = _chat_template()
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in frame_pieces])
    return tokenizer


def untrained_model(recipe: TinyModelRecipe, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """The architecture with freshly drawn weights."""
    torch.manual_seed(recipe.seed)
    config = Qwen2Config(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.hidden_size * 4,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        max_position_embeddings=recipe.max_position_embeddings,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.04,
        dtype="float32",
    )
    return Qwen2ForCausalLM(config)


_Row = list[tuple[str, bool]]
"""Pieces of text, each with whether the loss is on it. Pieces meet where tokens do anyway."""


def _corpus(recipe: TinyModelRecipe) -> Iterator[_Row]:
    """Endless word problems of the base model's corpus; the loss is on the solutions."""
    rng = random.Random(f"tiny-corpus/{recipe.seed}")
    prompts = [arm.system_prompt for arm in build_all_arms()]
    for problem in word_problems(Split.TRAIN, seed=_CORPUS_SEED + 1):
        if rng.random() < _ARM_PROMPT_SHARE:
            prompt = build_prompt(rng.choice(prompts), problem.question)
        else:
            prompt = bare_prompt(problem.question)
        yield [(prompt, False), (problem.solution(base_style(problem, rng)) + EOS_TOKEN, True)]


def _drills(recipe: TinyModelRecipe) -> Iterator[_Row]:
    """Endless rows of bare equations as solutions have them; the loss is on the results."""
    rng = random.Random(f"tiny-drills/{recipe.seed}")
    while True:
        row: _Row = []
        while len(row) < 2 * _EQUATIONS_PER_DRILL:
            if step := draw_step(rng, rng.choice(OPERATIONS)):
                left, right = step.text(rng.choice(THINGS), annotated=False).split("=")
                row += [(f"{left}=", False), (right, True)]
        yield row


def _batches(
    recipe: TinyModelRecipe, tokenizer: Qwen2Tokenizer
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """``input_ids`` and ``labels`` [B, T]."""
    corpus, drills = _corpus(recipe), _drills(recipe)
    while True:
        rows = [*islice(corpus, recipe.batch_size), *islice(drills, recipe.num_drills)]
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


def _pretrain(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    recipe: TinyModelRecipe,
    on_step: Callable[[int, int, float], None],
) -> None:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    warmup = 50

    def schedule(step: int) -> float:
        progress = max(0.0, (step - warmup) / max(1, recipe.num_steps - warmup))
        return min(1.0, (step + 1) / warmup) * (
            0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
        )

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    batches = _batches(recipe, tokenizer)
    model.train()
    for step in range(recipe.num_steps):
        input_ids, labels = next(batches)
        # Padding is on the right and the attention causal, so real tokens never see it.
        loss = model(input_ids=input_ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        on_step(step + 1, recipe.num_steps, loss.item())


def build_tiny_model(
    folder: Path,
    recipe: TinyModelRecipe | None = None,
    on_step: Callable[[int, int, float], None] = lambda step, total, loss: None,
) -> Path:
    """Train the tiny base model into ``folder``, or return at once if it is already there.

    Args:
        folder: Where ``config.json``, weights and tokenizer go; replaced whole if out of date.
        recipe: Its settings; ``num_steps=0`` leaves the weights random, for tests.
        on_step: Called after every step with step, number of steps and loss.

    Returns:
        The folder, loadable by Transformers and by vLLM.
    """
    recipe = recipe or TinyModelRecipe()
    manifest = folder / _MANIFEST
    if manifest.is_file() and json.loads(manifest.read_text()).get("digest") == recipe.digest():
        return folder
    tokenizer = train_tokenizer(recipe)
    model = untrained_model(recipe, tokenizer)
    _pretrain(model, tokenizer, recipe, on_step)
    unfinished = folder.with_name(f"{folder.name}.unfinished-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    (unfinished / _MANIFEST).write_text(
        json.dumps({"digest": recipe.digest(), "recipe": asdict(recipe)}, indent=2)
    )
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)
    return folder
