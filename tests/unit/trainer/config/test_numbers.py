"""Numbers that no step can compute with are refused where they are given."""

import pytest
from pydantic import ValidationError

from trainer.config.sections import (
    SECTIONS,
    EvaluationConfig,
    RolloutConfig,
    SampleConfig,
    SFTConfig,
    TrainConfig,
)

INFINITE = [float("inf"), float("nan")]
ARM = {"name": "solo", "system_prompt": "", "temperature": 1.0, "top_p": 1.0}


@pytest.mark.parametrize("value", INFINITE)
def test_no_number_of_any_section_is_infinite(value: float) -> None:
    num_floats = 0
    for section in SECTIONS.values():
        for name, field in section.model_fields.items():
            if "float" not in str(field.annotation):
                continue
            num_floats += 1
            with pytest.raises(ValidationError, match=name):
                section.model_validate({name: value})
    assert num_floats > 30


@pytest.mark.parametrize(("value", "kinds"), [(True, "int float"), (10**30, "int")])
def test_no_number_of_any_section_is_true_or_beyond_64_bits(value: object, kinds: str) -> None:
    num_fields = 0
    for section in SECTIONS.values():
        for name, field in section.model_fields.items():
            kind = str(field.annotation)
            if not any(word in kind for word in kinds.split()) or "Arm" in kind:
                continue
            num_fields += 1
            given = [value] if "tuple" in kind else value
            with pytest.raises(ValidationError, match=name):
                section.model_validate({name: given})
    assert num_fields > 30


@pytest.mark.parametrize("seed", [-1, 10**20, 2**63])
@pytest.mark.parametrize("section", ["run", "data", "rollout"])
def test_seeds_that_no_generator_takes_are_refused(section: str, seed: int) -> None:
    with pytest.raises(ValidationError, match=f"{section}.seed"):
        TrainConfig.model_validate({section: {"seed": seed}})


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (SFTConfig, {"seed": 2**32}),
        (EvaluationConfig, {"seed": 2**63}),
        (EvaluationConfig, {"data_seed": -1}),
        (SampleConfig, {"question": "?", "seed": -1}),
        (SampleConfig, {"question": "?", "version": -1}),
        (SampleConfig, {"question": "?", "version": 10**9}),
        (SampleConfig, {"question": " \n"}),
        (TrainConfig, {"run": {"num_threads": 10**20}}),
        (RolloutConfig, {"arms": [ARM, ARM]}),
        (RolloutConfig, {"arms": [ARM | {"temperature": float("inf")}]}),
        (RolloutConfig, {"arms": [ARM | {"top_p": float("nan")}]}),
    ],
)
def test_what_would_fail_later_is_refused_at_once(model: type, given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(given)  # type: ignore[attr-defined]
