"""The files of a base model and of a starting adapter: what is wrong with them is one line that names the setting."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_server.wire.adapters.adapter_config import (
    AdapterConfig,
    AdapterConfigError,
    module_and_side,
    parsed_config,
    read_config,
)
from inference_server.wire.base_fingerprint import base_folder, why_not_on_hub
from inference_server.wire.hardware.model_config import why_not_text_alone
from inference_server.wire.schemas import ADAPTER_CONFIG_FILE
from trainer.config.safe_text import shortened
from trainer.errors import UsageError
from trainer.io.disk import is_disk_full
from trainer.io.version_names import why_no_adapter

_FIELD = "policy.base_model"
_PROBE = "What is 6 times 7?"
"""A text of which every tokenizer of a language model makes tokens."""


def require_base_model(base_model: str) -> None:
    """Fail early, and without a long silence, on a base model that cannot be had, or takes more than text.

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
        _require_whole_weights(base_model)
    elif base_folder(base_model) is None:
        _require_on_hub(base_model, shown)


def require_text_alone(base_model: str) -> None:
    """Refuse a model of text and images: the server's layers would have other names than the trainer's.

    Raises:
        UsageError: It is one, and how to write its language model alone.
    """
    if (folder := base_folder(base_model)) is None:
        return
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return  # Whoever loads it says what is wrong.
    if (reason := why_not_text_alone(config, shortened(base_model))) is not None:
        raise UsageError(f"{_FIELD} {shortened(base_model)}: {reason}")


def _require_whole_weights(folder: str) -> None:
    """The heads of the weights' files alone: a pointer of Git LFS or half a download is found at once."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise UsageError(
                f"{_FIELD} {shortened(folder)}: its files cannot be read ({path.name}: {one_line(error)}); "
                "download or copy the model again"
            ) from None


def _require_on_hub(base_model: str, shown: str) -> None:
    if reason := why_not_on_hub(base_model):
        raise UsageError(f"{_FIELD} {shown}: neither a folder nor in the Hub's cache, and {reason}")


def require_adapter(folder: Path) -> None:
    """Refuse a starting adapter whose configuration PPO cannot train, or the server not serve.

    Raises:
        UsageError: It is no folder with an adapter, has dropout, or is not LoRA as the server serves it.
    """
    _read_adapter_config(folder, f"policy.adapter {folder}")


def require_tensors_as_configured(folder: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse tensors that a starting adapter's configuration excludes, does not name, or has another rank for.

    Args:
        folder: The adapter's.
        shapes: Of the tensors in its weights file by their names; names that are not PEFT's are left to it.

    Raises:
        UsageError: Names the module or the tensor.
    """
    where = f"policy.adapter {folder}"
    config = _read_adapter_config(folder, where)
    found = {name: split for name in shapes if (split := module_and_side(name)) is not None}
    with _naming_the_adapter(where):
        config.check_modules(sorted({module for module, _ in found.values()}), layers=())
    for name, (_, side) in found.items():
        # Before PEFT makes tensors of the configured rank, however large.
        if side == "A" and tuple(shapes[name][:1]) != (config.r,):
            raise UsageError(
                f"{where}: r is {config.r}, but {name} has shape {tuple(shapes[name])}"
            )


def _read_adapter_config(folder: Path, where: str) -> AdapterConfig:
    path = folder / ADAPTER_CONFIG_FILE
    if not os.path.isfile(path):
        raise UsageError(f"{where}: {why_no_adapter(folder)}")
    with _naming_the_adapter(where):
        content = path.read_bytes()
        config, dropout = read_config(content), parsed_config(content).get("lora_dropout")
    if dropout:
        raise UsageError(
            f"{where}: lora_dropout is {dropout}; "
            "PPO needs 0, or the trainer's logprobs differ from the server's"
        )
    return config


@contextmanager
def _naming_the_adapter(where: str) -> Iterator[None]:
    try:
        yield
    except AdapterConfigError as error:
        reason = error.reason
        if error.field is not None:
            reason = f"{error.field} is {shortened(repr(error.value))}: {reason}"
        raise UsageError(f"{where}: {ADAPTER_CONFIG_FILE}: {reason}") from None
    except OSError as error:
        raise UsageError(f"{where}: {ADAPTER_CONFIG_FILE}: {one_line(error)}") from None


@contextmanager
def reading_base(base_model: str) -> Iterator[None]:
    """A block that reads a base model's files.

    Raises:
        UsageError: They are missing, damaged, or of no model that can be read.
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
        UsageError: There are no files of one, they are damaged, or a token of it has no embedding.
    """
    from transformers import AutoConfig, AutoTokenizer  # noqa: PLC0415

    with reading_base(base_model):
        # Not Mistral's own tokenizer, which has no template and refuses messages that end with an answer.
        tokenizer = AutoTokenizer.from_pretrained(base_model, mistral_format=False)
        config = AutoConfig.from_pretrained(base_model).get_text_config()
    # Without tokenizer files Transformers makes an empty one, to which every text is nothing.
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
                f"has embeddings for {num_embeddings} tokens; they are not of one model"
            )
    return tokenizer


@dataclass(frozen=True, kw_only=True)
class BaseLimits:
    """What a base model takes."""

    vocab_size: int
    """Token ids are below it."""
    context_tokens: int
    """The longest prompt and completion together."""


def base_limits(base_model: str) -> BaseLimits:
    """The limits that a base model's configuration names.

    Raises:
        UsageError: It cannot be read.
    """
    from transformers import AutoConfig  # noqa: PLC0415

    with reading_base(base_model):
        config = AutoConfig.from_pretrained(base_model).get_text_config()
        return BaseLimits(
            vocab_size=int(config.vocab_size), context_tokens=int(config.max_position_embeddings)
        )


def one_line(error: BaseException) -> str:
    """An error's message in one line of limited length, or the name of its type."""
    return shortened(" ".join(str(error).split())) or type(error).__name__
