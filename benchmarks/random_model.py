"""Write a model of a preset's shape with random weights and a tokenizer, to run server and trainer without a download.

    python -m benchmarks.random_model --shape 1.5b --output models/random-1.5b --device cuda

The tokenizer splits questions and answers as the tiny model's does; the rest of the vocabulary consists of the words
`<t512>`, `<t513>` and so on, so that every sampled token has a text. The generated text is meaningless, but its tokens
cost as much as the real model's.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from benchmarks.arguments import benchmark_parser
from benchmarks.model_shapes import PRESETS
from trainer.console.environment import prepare_environment
from trainer.io.durable import whole_folder
from trainer.tiny_model.corpus import train_tokenizer

SHAPES = {"1.5b": PRESETS["gsm8k_a100"], "8b": PRESETS["gsm8k_a100_8b"]}
SHARPNESS = 8.0
"""Weight of the last norm. With a weight of 1, random weights give nearly uniform distributions, whose nuclei have
thousands of tokens; with this weight the nuclei are as small as a trained model's."""
_NUM_WORDS, _MAX_LENGTH_TOKENS = 512, 32_768


def main() -> int:
    """Returns the exit code."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="1.5b", help="[%(default)s]")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cpu", help="[%(default)s]")
    arguments = parser.parse_args()
    prepare_environment()
    if arguments.output.exists():
        print(f"{arguments.output} is there already")
        return 0
    write_random_model(arguments.output, SHAPES[arguments.shape], torch.device(arguments.device))
    return 0


def random_base(shape: PretrainedConfig, device: torch.device) -> Any:
    """A frozen bfloat16 model of that shape; every call on the same device gives the same weights."""
    torch.manual_seed(0)
    with device:
        base = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    torch.nn.init.constant_(base.model.norm.weight, SHARPNESS)
    return base.requires_grad_(False)


def write_random_model(output: Path, shape: PretrainedConfig, device: torch.device) -> None:
    """Write weights, configuration and tokenizer: the whole folder or none."""
    tokenizer = train_tokenizer(vocab_size=_NUM_WORDS, max_length_tokens=_MAX_LENGTH_TOKENS)
    base = random_base(shape, device)
    for config in (base.config, base.generation_config):
        config.bos_token_id = None
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    with whole_folder(output) as folder:
        base.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        file = folder / "tokenizer.json"
        made = json.loads(file.read_text())
        words = {f"<t{i}>": i for i in range(_NUM_WORDS, shape.vocab_size)}
        made["model"]["vocab"] |= words
        file.write_text(json.dumps(made))


if __name__ == "__main__":
    sys.exit(main())
