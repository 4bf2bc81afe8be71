"""SmolLM2's tokenizer from the vocabulary in a GGUF file; scripts/real_model.py writes it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

END_OF_TURN = "<|im_end|>"
_CONTROL = 3
"""GGUF's type of a special token."""


def read_tokenizer(gguf_file: Path) -> Any:
    """The tokenizer of the vocabulary, special tokens and chat template in a GGUF file."""
    from gguf import GGUFReader

    fields = GGUFReader(gguf_file).fields

    def value(name: str) -> Any:
        return fields[f"tokenizer.{name}"].contents()

    tokens = value("ggml.tokens")
    kinds = zip(tokens, value("ggml.token_type"), strict=True)
    roles = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    return build_tokenizer(
        tokens,
        value("ggml.merges"),
        special=[token for token, kind in kinds if kind == _CONTROL],
        chat_template=value("chat_template"),
        model_max_length=fields["llama.context_length"].contents(),
        **{f"{ours}_token": tokens[value(f"ggml.{its}_token_id")] for ours, its in roles.items()},
    )


def build_tokenizer(
    tokens: Sequence[str], merges: Sequence[str], *, special: Sequence[str], **settings: Any
) -> Any:
    """A byte-level BPE with one token per digit, which llama.cpp calls ``smollm``.

    Transformers' own GGUF reader has no rule for digits here and would merge them.

    Args:
        tokens: All tokens in the order of their ids.
        merges: Pairs of tokens, separated by a space, in the order of their ranks.
        special: The tokens that text is never split within.
        settings: The chat template, the longest input, and the BOS, EOS, padding and unknown tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **settings
    )


def check_tokenizer(tokenizer: Any) -> list[str]:
    """What is wrong with the tokenizer."""
    problems = []
    text = "2024 is 12+7, in words: été, naïve.\n  Two spaces"
    tokens = tokenizer.tokenize(text)
    if [t for t in tokens if any(c.isdigit() for c in t)] != list("2024127"):
        problems.append(f"digits are not tokens of their own: {tokens}")
    if tokenizer.decode(tokenizer(text).input_ids) != text:
        problems.append("text does not survive encoding and decoding")
    if tokenizer.eos_token != END_OF_TURN:
        problems.append(f"the end token is {tokenizer.eos_token!r}")
    if not tokenizer.chat_template:
        problems.append("no chat template")
    return problems
