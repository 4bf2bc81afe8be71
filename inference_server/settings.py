"""The server's settings, read from flags, environment and file; other flags are for ``vllm serve``.

Loads neither torch nor vllm.
"""

from collections.abc import Sequence
from difflib import get_close_matches

from pydantic import BaseModel, ConfigDict, Field

from inference_server.wire.flags.keys import key_of
from inference_server.wire.settings.errors import SettingsError, known_keys
from inference_server.wire.settings.serve import VLLM_KEYS, ServeConfig
from inference_server.wire.settings.sources import Program, program_name
from inference_server.wire.settings_loader import load_settings

OTHER_SECTIONS = (
    "policy",
    "data",
    "server",
    "rollout",
    "reward",
    "ppo",
    "run",
    "sft",
    "offline",
    "collect",
    "eval",
    "doctor",
)
"""Tables of a configuration file that belong to the trainer, which checks them."""

OTHER_KEYS = (
    "adapter",
    "answer_type",
    "arm",
    "arms",
    "ask_server",
    "base_model",
    "baseline",
    "batch_size",
    "best",
    "card_gib",
    "choices",
    "data_answer",
    "data_answer_type",
    "data_choices",
    "data_question",
    "data_seed",
    "device",
    "dtype",
    "evaluation",
    "force",
    "from",
    "from_scratch",
    "gold",
    "keep_serving",
    "limit",
    "max_tokens",
    "merged",
    "model",
    "models",
    "num_in_flight",
    "num_questions",
    "num_steps",
    "output",
    "port",
    "private",
    "prompt_format",
    "question",
    "resume",
    "role",
    "rollouts",
    "samples_per_arm",
    "seed",
    "starts",
    "step",
    "stop",
    "to",
    "trackers",
    "train_data",
    "verify",
    "version",
    "what_if",
)
"""Keys of the trainer's commands that are in no section; their environment variables may be set for both programs."""

_DESCRIPTION = """

Every setting may also come from the environment (REGIME_W_PORT=8000) or from the TOML file of
--config: at its top, or in its table [serve], beside the tables of the trainer's commands. Flags win
over the environment, the environment over the file. Without a model, policy.base_model is served.

Every flag of "vllm serve" works too, and wins over what this server sets by itself:
  --enable-lora --max-lora-rank 16 --max-loras N --max-cpu-loras N (N: max-loaded-versions)
  --logprobs-mode processed_logprobs --generation-config vllm
  --scheduling-policy priority --disable-uvicorn-access-log
  on a CPU: --dtype float32 --enforce-eager --block-size 32 --no-enable-chunked-prefill
            --max-num-batched-tokens 8192 --max-num-seqs 256 --kv-cache-memory-bytes N (N: room for
            all sequences, at most a quarter of the memory; VLLM_CPU_KVCACHE_SPACE=GIB wins)
  on a GPU: --max-num-seqs 512 --max-num-batched-tokens 8192 --cudagraph-capture-sizes 1 2 4 … 512, and
            --kv-cache-memory-bytes N (N: what the plan of `trainer doctor` leaves of
            gpu_memory_utilization); VLLM_USE_FLASHINFER_SAMPLER=0. --dtype float32 is refused.
gpu_memory_utilization, max_model_len, max_lora_rank and max_num_seqs may stand in the file and the
environment too.
"""


_LIKENESS = 0.8
"""An unknown flag that is at least this similar to one of ours is refused; vLLM's most similar flag has 0.78
(max-bytes)."""


class Settings(ServeConfig):
    """vLLM's OpenAI server with arms, versioned LoRA adapters and a policy alias."""

    model: str = Field(min_length=1)
    """Base model: a folder in Hugging Face's format, or a model id on the Hub."""


class _OtherSection(BaseModel):
    """A table that belongs to the trainer."""

    model_config = ConfigDict(extra="allow")


def read_settings(arguments: Sequence[str]) -> tuple[Settings, list[str]]:
    """The settings, and the arguments that are for vLLM.

    Prints help and exits 0 for ``--help``.

    Raises:
        SettingsError: A value is missing, unknown or out of range, or the file cannot be read.
    """
    program = Program(
        name=program_name("inference_server", "regime-w-server"),
        description=_DESCRIPTION,
        sections=dict.fromkeys(OTHER_SECTIONS, _OtherSection) | {"serve": ServeConfig},
        own_section="serve",
        inherited={"model": "policy.base_model"},
        other_keys=OTHER_KEYS,
        kebab_case=True,
        # A key would show in the list of processes; vLLM reads its own flags.
        not_flags={"api_key", *VLLM_KEYS},
        allow_unknown_flags=True,
    )
    settings, unknown = load_settings(Settings, arguments, program)
    if lines := _misspelt(unknown):
        raise SettingsError(*lines)
    return settings, unknown


def _misspelt(flags: Sequence[str]) -> list[str]:
    """One line for each flag that is nearly one of ours. No flag of vLLM's is, so vLLM need not be imported first."""
    keys = [key for key in known_keys(Settings) if key not in VLLM_KEYS]
    names = [flag.partition("=")[0] for flag in flags if flag.startswith("--")]
    near = {name: get_close_matches(key_of(name), keys, 1, _LIKENESS) for name in names}
    return [
        f"{name}: unknown flag; did you mean --{found[0].replace('_', '-')}?"
        for name, found in near.items()
        if found
    ]
