"""A copy of a tokenizer in which no text can name a control token."""

import json
import re
import secrets
from collections.abc import Collection, Mapping
from typing import Any

from tokenizers import Tokenizer

_MARKUP = re.compile(r"<.*>|\[.*\]", re.DOTALL)


class NeutralTokenizer:
    """Encodes as a tokenizer does, except that its control tokens have secret names.

    `with_secret_names` puts these names into trusted text; in any other text ``<|im_end|>`` and the like are plain
    characters. Control tokens are the special ones, and those that occur as markup in trusted text, such as
    ``<|assistant|>`` in a tokenizer that does not call it special.
    """

    def __init__(self, tokenizer: Any, trusted: Collection[str]) -> None:
        """Copies the tokenizer.

        Args:
            tokenizer: One of Transformers' with a ``tokenizer.json`` (a fast one); only read.
            trusted: The fixed texts around the users' texts.

        Raises:
            ValueError: It is not a fast one.
        """
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise ValueError(
                f"a {type(tokenizer).__name__} cannot render prompts: the model needs a fast tokenizer "
                "(tokenizer.json)"
            )
        state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        special = set(tokenizer.all_special_tokens)
        self.control: Mapping[str, int] = {
            token["content"]: token["id"]
            for token in state["added_tokens"]
            if token["special"]
            or token["content"] in special
            or (
                _MARKUP.fullmatch(token["content"])
                and any(token["content"] in text for text in trusted)
            )
        }
        """The id of each control token by its name."""
        secret = secrets.token_hex(8)
        # Unicode assigns no character to U+FDD0, so what stands beside a name in a text is never one of its own.
        self._names = {
            name: f"\ufdd0{secret}x{index}\ufdd0" for index, name in enumerate(self.control)
        }
        longest_first = sorted(map(re.escape, self.control), key=len, reverse=True)
        self._pattern = re.compile("|".join(longest_first) or r"(?!)")
        self._copy = Tokenizer.from_str(json.dumps(_renamed(state, self._names)))
        for name, token_id in self.control.items():
            if self._copy.token_to_id(self._names[name]) != token_id:
                raise ValueError(f"the tokenizer gives {name!r} another id when it is copied")

    def with_secret_names(self, trusted: str) -> str:
        """Trusted text with the secret names of its control tokens in their place."""
        return self._pattern.sub(lambda found: self._names[found[0]], trusted)

    def leading_control(self, trusted: str) -> int | None:
        """The id of the control token that trusted text begins with, white space aside."""
        found = self._pattern.match(trusted.lstrip())
        return None if found is None else self.control[found[0]]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without any that the tokenizer adds by itself."""
        # Unlike `encode`, this lets other threads run meanwhile: a long text takes seconds.
        (encoded,) = self._copy.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoded.ids
        return ids


def _renamed(state: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A tokenizer's ``tokenizer.json`` with other names for some tokens, which adds and cuts off no tokens."""
    model = dict(state["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): i for piece, i in vocabulary.items()}
    else:  # Unigram: pairs of a piece and its score
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    added = [
        {**token, "content": names.get(token["content"], token["content"])}
        for token in state["added_tokens"]
    ]
    changes = {"model": model, "added_tokens": added, "post_processor": None}
    return {**state, **changes, "truncation": None, "padding": None}
