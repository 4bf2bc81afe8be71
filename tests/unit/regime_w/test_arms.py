"""The arms of the recipe, its prompt, and the package's surface."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

import regime_w
from regime_w import (
    ArmOutput,
    ArmSpec,
    build_all_arms,
    build_exploring_arms,
    build_prompt,
    named_arms,
)

WOLFRAM = (
    "You are a precise math reasoner. Solve the problem step by step, keep reasoning linear and "
    "explicit. Avoid extra commentary. End with '#### final_answer'."
)
MAUDLIN = (
    "You are a reflective math reasoner. Explain your reasoning and highlight any steps that might "
    "be fragile. End with '#### final_answer'."
)


def test_the_eight_arms_are_the_recipes() -> None:
    assert [
        (arm.name, arm.system_prompt, arm.temperature, arm.top_p) for arm in build_all_arms()
    ] == [
        ("wolfram_0", WOLFRAM, 0.2, 0.95),
        ("wolfram_1", WOLFRAM, 0.3, 0.95),
        ("wolfram_2", WOLFRAM, 0.4, 0.95),
        ("wolfram_3", WOLFRAM, 0.5, 0.95),
        ("maudlin_0", MAUDLIN, 0.2, 0.9),
        ("maudlin_1", MAUDLIN, 0.3, 0.9),
        ("maudlin_2", MAUDLIN, 0.4, 0.9),
        ("maudlin_3", MAUDLIN, 0.5, 0.9),
    ]


def test_the_prompt_is_the_recipes() -> None:
    assert build_prompt("Be brief.", "What is 3 + 4?") == (
        "Be brief.\n\nSolve the problem step by step and end with the final answer in the format "
        "'#### 42'.\n\nProblem:\nWhat is 3 + 4?\n\nSolution:\n"
    )


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("wolfram_0", "wolfram"),
        ("maudlin_12", "maudlin"),
        ("two_words_3", "two_words"),
        ("solo", "solo"),
        ("solo_x", "solo_x"),
        ("solo_", "solo_"),
        ("a_1_2", "a_1"),
        ("_0", "_0"),
    ],
)
def test_family_is_the_name_without_its_number(name: str, family: str) -> None:
    assert ArmSpec(name=name, system_prompt="", temperature=1.0, top_p=1.0).family == family


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"temperature": 0.0},
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"temp": 0.2},
    ],
)
def test_a_bad_arm_is_an_error_that_names_the_field(wrong: dict[str, object]) -> None:
    good = {"name": "a_0", "system_prompt": "p", "temperature": 0.2, "top_p": 0.9}
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ArmSpec.model_validate(good | wrong)


def test_arms_are_frozen_and_hashable() -> None:
    arm = build_all_arms()[0]
    with pytest.raises(ValidationError, match="frozen"):
        arm.temperature = 1.0  # type: ignore[misc]
    assert len(set(build_all_arms())) == 8


def test_an_output_from_text_reads_the_answer() -> None:
    text = "3 + 4 = 7\n#### 7.00"
    assert ArmOutput.from_text("wolfram_0", text) == ArmOutput(
        arm_name="wolfram_0", full_text=text, reasoning=text, answer="7"
    )
    assert ArmOutput.from_text("wolfram_0", "I do not know").answer is None


def test_exploring_arms_are_the_recipes_but_for_their_sampling() -> None:
    exploring = build_exploring_arms()
    assert [(arm.name, arm.system_prompt) for arm in exploring] == [
        (arm.name, arm.system_prompt) for arm in build_all_arms()
    ]
    assert [arm.temperature for arm in exploring] == 2 * [0.6, 0.8, 1.0, 1.2]
    assert {arm.top_p for arm in exploring} == {1.0}


def test_a_name_is_of_a_set_or_of_an_arm() -> None:
    assert named_arms("recipe") == build_all_arms()
    assert named_arms("exploring") == build_exploring_arms()
    assert named_arms("maudlin_3") == (build_all_arms()[7],)
    with pytest.raises(ValueError, match=r"'wolfram_9'; known are the sets recipe, exploring and"):
        named_arms("wolfram_9")


def test_every_public_name_is_there_and_sorted() -> None:
    assert regime_w.__all__ == sorted(regime_w.__all__)
    assert set(regime_w.__all__) == {
        *("ArmOutput", "ArmSpec", "GroupScores", "RewardConfig", "answers_agree", "arm_rewards"),
        *("build_all_arms", "build_prompt", "compute_regime_w_scores", "compute_reward"),
        *("extract_answer", "s_cf_for_question", "s_end_for_question", "s_path_for_question"),
        *("s_wm_for_question", "select_arms", "Counterfactual", "CounterfactualGroup"),
        *("GroupReward", "RewardParts", "extract_gold", "reward_group"),
        *("AnswerType", "answer_type_of", "build_exploring_arms", "named_arms"),
    }
    for name in regime_w.__all__:
        assert getattr(regime_w, name).__doc__


def test_import_loads_no_torch_and_no_network() -> None:
    forbidden = ["torch", "vllm", "trainer", "inference_server"]
    forbidden += ["ssl", "http.client", "httpx", "requests", "aiohttp"]
    # pydantic, when it builds its first model, loads socket; beyond that, nothing may.
    program = f"""
import sys
from pydantic import BaseModel
class Model(BaseModel): ...
had_socket = "socket" in sys.modules
import regime_w
assert ("socket" in sys.modules) == had_socket
print([name for name in {forbidden} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "[]"


def test_an_arm_takes_the_recipes_name_of_the_temperature() -> None:
    arm = build_all_arms()[0]
    fields = {"name": arm.name, "system_prompt": arm.system_prompt, "top_p": arm.top_p}
    assert ArmSpec.model_validate({**fields, "temp": arm.temp}) == arm
    for wrong in ({"temp": 0}, {"temp": 0.2, "temperature": 0.2}, {}, {"temp": "0.2"}):
        with pytest.raises(ValidationError, match="temp"):
            ArmSpec.model_validate({**fields, **wrong})
