"""How a changed setting is said."""

from typing import Any

import pytest

from regime_w import build_all_arms
from regime_w.arms import build_exploring_arms
from trainer.io.change_text import change_text


def dumped(arms: Any) -> list[dict[str, Any]]:
    return [arm.model_dump(mode="json") for arm in arms]


def arm(name: str, prompt: str = "Be brief.", temperature: float = 0.5) -> dict[str, Any]:
    return {"name": name, "system_prompt": prompt, "temperature": temperature, "top_p": 1.0}


@pytest.mark.parametrize(
    ("key", "before", "now", "said"),
    [
        ("ppo.kl_coef", 0.1, "null", "ppo.kl_coef was 0.1 and is null"),
        (
            "rollout.arms",
            "null",
            dumped(build_exploring_arms()),
            "rollout.arms: was recipe and is exploring",
        ),
        (
            "rollout.arms",
            dumped(build_all_arms()),
            [arm("solo"), arm("warm", temperature=1.25)],
            "rollout.arms: was recipe and is solo (temperature 0.5, top_p 1), warm (temperature 1.25, top_p 1)",
        ),
        (
            "rollout.arms",
            [arm("a"), arm("b"), arm("c", "Think.")],
            [arm("a"), arm("b", "Think."), arm("c", "Think first.")],
            "rollout.arms: b had system_prompt Be brief. and has Think.; "
            "c had system_prompt Think. and has Think first.",
        ),
        (
            "arms",
            [arm("a", temperature=0.5), arm("b")],
            [arm("a", temperature=0.75), arm("b")],
            "arms: a had temperature 0.5 and has 0.75",
        ),
        ("rollout.arms", "recipe", 3, "rollout.arms was recipe and is 3"),
        ("rollout.arms", [{"name": "a"}], ["b"], "rollout.arms was [{'name': 'a'}] and is ['b']"),
    ],
)
def test_a_change_is_said_in_few_words(key: str, before: object, now: object, said: str) -> None:
    assert change_text(key, before, now) == said


def test_long_values_are_shown_from_their_first_difference() -> None:
    prompt = "Think. " * 100
    said = change_text(
        "rollout.arms", [arm("a", f"{prompt}Be brief.")], [arm("a", f"{prompt}Go on.")]
    )
    assert said.startswith("rollout.arms: a had system_prompt …")
    assert "Think. Be brief. and has …" in said
    assert said.endswith("Think. Go on.")
    assert len(said) < 250


def test_of_many_changed_arms_some_are_shown() -> None:
    before = [arm(f"a{i}", temperature=0.5) for i in range(20)]
    now = [arm(f"a{i}", temperature=0.75) for i in range(20)]
    said = change_text("rollout.arms", before, now)
    assert said.startswith("rollout.arms: a0 had temperature 0.5 and has 0.75; a1 had ")
    assert said.endswith("; and 12 more")


def test_what_is_long_is_cut() -> None:
    text = change_text("rollout.stop", ["#" * 5000], [])
    assert len(text) < 250
    assert text.endswith("#… and is []")
