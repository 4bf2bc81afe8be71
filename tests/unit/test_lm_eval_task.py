"""examples/lm_eval: lm-eval asks as training does, questions that can be read."""

import json
import tomllib
from pathlib import Path

import yaml

from regime_w import build_all_arms, build_prompt
from regime_w.numbers.answers import extract_gold
from trainer.data.sources import load_records
from trainer.data.word_problems import Split

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples/lm_eval"


def test_the_task_asks_the_demos_held_out_questions_with_the_prompt_of_training() -> None:
    task = yaml.safe_load((FOLDER / "word_problems.yaml").read_text())
    (arm,) = (arm for arm in build_all_arms() if arm.name == "wolfram_0")
    assert task["doc_to_text"] == build_prompt(arm.system_prompt, "{{question}}")
    demo = tomllib.loads((ROOT / "deploy/configs/demo.toml").read_text())
    assert task["generation_kwargs"]["max_gen_toks"] == demo["rollout"]["max_tokens"]
    rows = [
        json.loads(line)
        for line in (ROOT / task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    ]
    asked = load_records("word-problems", Split.HELD_OUT, num_records=len(rows))
    assert [(row["question"], row["answer"]) for row in rows] == [
        (record.question, extract_gold(record.gold)) for record in asked
    ]
