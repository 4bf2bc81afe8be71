"""A real server on a random tiny model, for tests that need one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from inference_server.launch.server_process import ServerProcess, running_server

EOS_TOKEN = "<|end|>"
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")


@contextmanager
def server_with(
    model_dir: Path, state_dir: Path, *, api_key: str | None = None, **flags: str | int
) -> Iterator[ServerProcess]:
    """A server with these flags that answers within the block; afterwards nothing of it is left, whatever happens."""
    arguments = ["--state-dir", str(state_dir)]
    for name, value in flags.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    with running_server(
        model=model_dir,
        log_path=state_dir.with_suffix(".log"),
        flags=arguments,
        environment={"REGIME_W_API_KEY": api_key or ""},
    ) as server:
        yield server


def engine_process(server: ServerProcess) -> psutil.Process:
    """The process in which vLLM's engine computes."""
    (engine,) = [
        child
        for child in psutil.Process(server.process.pid).children(recursive=True)
        if "EngineCore" in " ".join(child.cmdline())
    ]
    return engine


@contextmanager
def paused_engine(server: ServerProcess) -> Iterator[None]:
    """Within the block the server's engine computes nothing, so that requests to it stay in flight."""
    engine = engine_process(server)
    engine.suspend()
    try:
        yield
    finally:
        engine.resume()


def metric(text: str, name: str) -> float:
    """A metric's value in an answer of ``GET /metrics``, summed over its labels."""
    lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def save_random_model(
    folder: Path,
    *,
    chat_template: str | None = None,
    kind: Callable[..., PreTrainedConfig] = Qwen2Config,
) -> Path:
    """A model of about 100,000 random parameters, a Qwen2 by default, and a byte-level tokenizer.

    With a chat template the tokenizer also has the tokens of `CHAT_TOKENS`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        ["Solve the problem step by step and end with the final answer."],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<|pad|>", EOS_TOKEN, *(CHAT_TOKENS if chat_template else ())],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        pad_token="<|pad|>",
        chat_template=chat_template,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        kind(
            vocab_size=len(fast),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
            # Large enough for a distribution that is neither flat nor a single token.
            initializer_range=0.2,
            dtype="float32",
        )
    )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def save_random_adapter(model_dir: Path, folder: Path, *, seed: int) -> Path:
    """A PEFT adapter whose B is random too, so that it changes what the model says."""
    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model_dir),
        LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    return folder


def load_policy(model_dir: Path, adapter_dir: Path | None) -> torch.nn.Module:
    """The same policy in Transformers and PEFT, to compare the server with."""
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(model_dir)
    if adapter_dir is not None:
        model = PeftModel.from_pretrained(model, adapter_dir)
    return model.eval()
