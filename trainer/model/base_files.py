"""Checks and reads a base model's files; an error about them is one line that names the setting."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_server.wire.base_files import base_folder, why_not_on_hub
from inference_server.wire.hardware.model_config import context_tokens, why_not_text_only
from trainer.config.safe_text import shortened
from trainer.errors import UsageError
from trainer.io.disk import is_disk_full

_FIELD = "policy.base_model"
_PROBE = "What is 6 times 7?"
"""A text that the tokenizer of any language model turns into tokens."""
_INDEX_FILE = "model.safetensors.index.json"


def require_base_model(base_model: str) -> None:
    """Fail early, and without a long silence, on a base model that is not available or takes more than text.

    Raises:
        UsageError: See `require_model` and `require_text_alone`.
    """
    require_model(base_model)
    require_text_alone(base_model)


def require_model(base_model: str) -> None:
    """Fail early on a model that is neither on this machine nor on the Hub.

    Raises:
        UsageError: It is a folder without ``config.json`` or with truncated weights, a path that does not
            exist, or a Hub id that is not cached while the Hub does not have it or cannot be reached.
    """
    shown = shortened(base_model)
    looks_like_path = os.path.isabs(base_model) or base_model.startswith((".", "~", "models/"))
    if looks_like_path or os.path.isdir(base_model):
        if not os.path.isfile(os.path.join(base_model, "config.json")):
            hint = "; write the home folder out, '~' is not read" if base_model[:1] == "~" else ""
            raise UsageError(
                f"{_FIELD} {shown}: no such folder with a config.json in it (base model){hint}"
            )
        require_whole_weights(base_model)
    elif base_folder(base_model) is None:
        _require_on_hub(base_model, shown)


def require_text_alone(base_model: str) -> None:
    """Refuse a model of text and images, whose layers have other names on the server than in the trainer.

    Raises:
        UsageError: It is such a model; the message says how to write its language model alone.
    """
    if (folder := base_folder(base_model)) is None:
        return
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return  # Loading the model will report what is wrong.
    if (reason := why_not_text_only(config, shortened(base_model))) is not None:
        raise UsageError(f"{_FIELD} {shortened(base_model)}: {reason}")


def require_whole_weights(folder: str) -> None:
    """Read only the index and the headers of the weight files: enough to find a Git LFS pointer or half a download.

    Raises:
        UsageError: A file is damaged; names it.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    indexed_files(folder)
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise _unreadable(folder, path.name, one_line(error)) from None


def indexed_files(folder: str) -> list[str]:
    """The weight files that a model's index names; none if it has no index.

    Raises:
        UsageError: The index is damaged.
    """
    try:
        index = json.loads((Path(folder) / _INDEX_FILE).read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise _unreadable(folder, _INDEX_FILE, one_line(error)) from None
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise _unreadable(
            folder, _INDEX_FILE, "its weight_map does not name the file of each tensor"
        )
    return sorted(set(names.values()))


def _unreadable(folder: str, name: str, reason: str) -> UsageError:
    return UsageError(
        f"{_FIELD} {shortened(folder)}: its files cannot be read ({name}: {reason}); "
        "download or copy the model again"
    )


def _require_on_hub(base_model: str, shown: str) -> None:
    if reason := why_not_on_hub(base_model):
        raise UsageError(f"{_FIELD} {shown}: neither a folder nor in the Hub's cache, and {reason}")


@contextmanager
def reading_base(base_model: str) -> Iterator[None]:
    """A block that reads a base model's files.

    Raises:
        UsageError: The files are missing, damaged, or not those of a model that can be read.
    """
    # Not at the top: the command line checks a folder before it imports torch.
    import torch  # noqa: PLC0415
    from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415
    from safetensors import SafetensorError  # noqa: PLC0415

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (
        *(OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, EOFError),
        *(SafetensorError, StrictDataclassError),
    ) as error:
        if is_disk_full(error):
            raise
        raise UsageError(
            f"{_FIELD} {shortened(base_model)}: its files cannot be read ({one_line(error)}); "
            "download or copy the model again"
        ) from error


def load_tokenizer(base_model: str) -> Any:
    """The tokenizer of a base model.

    Raises:
        UsageError: The tokenizer's files are missing or damaged, or one of its tokens has no embedding.
    """
    from transformers import AutoConfig, AutoTokenizer  # noqa: PLC0415

    with reading_base(base_model):
        # Not Mistral's own tokenizer, which has no template and refuses messages that end with an answer.
        tokenizer = AutoTokenizer.from_pretrained(base_model, mistral_format=False)
        config = AutoConfig.from_pretrained(base_model).get_text_config()
    # Without tokenizer files, Transformers makes an empty tokenizer, which turns every text into no tokens.
    ids = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    if not ids or set(ids) <= {tokenizer.unk_token_id}:
        raise UsageError(
            f"{_FIELD} {base_model}: its tokenizer makes no tokens of a text; are tokenizer.json and "
            "tokenizer_config.json in its folder?"
        )
    num_embeddings = getattr(config, "vocab_size", None)
    named = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos", "bos")}
    for name, token_id in (*named.items(), ("a text's", max(ids))):
        if token_id is not None and num_embeddings is not None and token_id >= num_embeddings:
            raise UsageError(
                f"{_FIELD} {base_model}: the tokenizer's {name} token has the id {token_id}, but the model "
                f"has embeddings for {num_embeddings} tokens; they belong to different models"
            )
    return tokenizer


@dataclass(frozen=True, kw_only=True)
class BaseLimits:
    """The limits of a base model."""

    vocab_size: int
    """Token ids are below this number."""
    context_tokens: int
    """The most tokens of a prompt together with its completion."""


def base_limits(base_model: str) -> BaseLimits:
    """The limits that a base model's configuration names.

    Raises:
        UsageError: The configuration cannot be read.
    """
    from transformers import AutoConfig  # noqa: PLC0415

    with reading_base(base_model):
        config = AutoConfig.from_pretrained(base_model).get_text_config()
        # Derived in the same way as on the server, since positions may be scaled.
        longest = context_tokens(config.to_dict())
        return BaseLimits(vocab_size=int(config.vocab_size), context_tokens=longest)


def one_line(error: BaseException) -> str:
    """An error's message in one line of limited length, or the name of its type."""
    return shortened(" ".join(str(error).split())) or type(error).__name__
