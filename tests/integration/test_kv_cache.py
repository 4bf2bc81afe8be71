"""Blocks of vLLM's KV cache that an adapter filled with NaN, and the requests that get them afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from inference_server.wire.hardware.prerequisites import PATCHES_PLUGIN
from tests.integration.server_fixture import save_random_adapter, save_random_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Only the engine runs, since the server would refuse the adapter.
SCRIPT = """
import json, math, sys
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

def answers(lora, prompts):
    outputs = llm.generate(
        [{"prompt_token_ids": ids} for ids in prompts], params, lora_request=lora, use_tqdm=False
    )
    tokens = [output.outputs[0] for output in outputs]
    return [[o.token_ids[i], o.logprobs[i][o.token_ids[i]].logprob] for o in tokens for i in range(8)]

if __name__ == "__main__":
    model, adapter = sys.argv[1:]
    llm = LLM(model=model, enable_lora=True, max_lora_rank=8, max_model_len=256, seed=0,
              enforce_eager=True, num_gpu_blocks_override=9, max_num_seqs=4)
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=0)
    ours = [[5, 6, 7, 8], [9, 10, 11]]
    before = answers(None, ours)
    # More places than the cache has, so that each block is filled.
    spoilt = answers(LoRARequest("spoilt", 1, adapter), [[i] * 120 for i in range(20, 60)])
    after = answers(None, ours)
    finite = all(math.isfinite(logprob) for _, logprob in spoilt)
    print(json.dumps({"before": before, "after": after, "finite": finite}))
"""


def test_no_request_reads_what_another_left_in_a_block(tmp_path: Path) -> None:
    model = save_random_model(tmp_path / "model")
    adapter = save_random_adapter(model, tmp_path / "adapter", seed=1)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: tensor.sign() * 3e38 for name, tensor in weights.items()},
        adapter / "adapter_model.safetensors",
    )
    script = tmp_path / "engine.py"
    script.write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, str(script), str(model), str(adapter)],
        env={
            **os.environ,
            "VLLM_PLUGINS": PATCHES_PLUGIN,
            "VLLM_CPU_KVCACHE_SPACE": "1",
            # In one process: a second one spins while it waits, and takes a core.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "ERROR",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert not found["finite"], "the adapter spoils nothing: the test proves nothing"
    assert found["after"] == found["before"]
