"""lm-eval, where it is installed, asks a real vLLM server by the command of docs/evaluate.md."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import yaml

from inference_server.launch.server_process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="needs lm-eval: pip install 'lm-eval[api]'"
)
def test_the_documented_command_gets_the_policys_greedy_answers(
    server: ServerProcess, tmp_path: Path
) -> None:
    page = (ROOT / "docs/evaluate.md").read_text()
    found = re.search(r" lm_eval (--model local-completions .*?)\n```", page, re.DOTALL)
    assert found is not None
    command = found[1].replace("\\\n", " ").replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lm_eval",
            *shlex.split(command),
            "--limit",
            "3",
            "--log_samples",
            "--output_path",
            str(tmp_path),
        ],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"strict-match.*exact_match", done.stdout)
    (path,) = tmp_path.rglob("samples_word_problems_*.jsonl")
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    said = {sample["doc"]["question"]: sample["resps"][0][0] for sample in samples}
    assert len(said) == 3
    task = yaml.safe_load((ROOT / "examples/lm_eval/word_problems.yaml").read_text())
    for question, text in said.items():
        response = httpx.post(
            f"{server.url}/v1/completions",
            json={
                "model": "policy",
                "prompt": task["doc_to_text"].replace("{{question}}", question),
                "temperature": 0,
                "max_tokens": task["generation_kwargs"]["max_gen_toks"],
            },
            timeout=60,
        )
        assert response.json()["choices"][0]["text"] == text
