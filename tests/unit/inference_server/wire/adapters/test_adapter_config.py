"""Which fields of PEFT's configuration are applied; server and trainer refuse the same ones."""

import json
from dataclasses import fields
from typing import Any

import pytest
from peft import LoraConfig

from inference_server.wire.adapters.adapter_config import (
    AdapterConfigError,
    module_and_side,
    read_config,
)

LAYERS = (
    "model.layers.0.q_proj",
    "model.layers.0.down_proj",
    "model.layers.1.q_proj",
    "model.layers.1.down_proj",
    "lm_head",
)
PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


def content(**changes: Any) -> bytes:
    return json.dumps(PLAIN | changes).encode()


def of_peft(**changes: Any) -> bytes:
    """What PEFT itself writes."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], **changes)
    return json.dumps(config.to_dict(), default=sorted).encode()


@pytest.mark.parametrize(
    "config",
    [
        of_peft(),
        of_peft(task_type="CAUSAL_LM", lora_dropout=0.1, base_model_name_or_path="a/b"),
        of_peft(use_rslora=True),
        of_peft(init_lora_weights="gaussian"),
        of_peft(init_lora_weights=False),
        of_peft(exclude_modules=["lm_head"]),
        content(runtime_config={"ephemeral_gpu_offload": False}, revision=None),
        content(exclude_modules=""),
    ],
)
def test_what_peft_writes_of_plain_lora_is_read(config: bytes) -> None:
    read_config(config).check_modules([m for m in LAYERS if "q_proj" in m], LAYERS)


REFUSED: dict[str, Any] = {
    "auto_mapping": 1,
    "base_model_name_or_path": 1,
    "exclude_modules": ".*q_proj",
    "inference_mode": "yes",
    "lora_alpha": True,
    "lora_dropout": 2.0,
    "megatron_core": {"a": 1},
    "peft_type": "ADALORA",
    "peft_version": 1,
    "qalora_group_size": "16",
    "r": 4.0,
    "revision": 1,
    "runtime_config": 1,
    "target_modules": ".*q_proj",
    "task_type": "SEQ_CLS",
    "use_rslora": "true",
}
"""Values of fields that are read, or have no effect; of every other field any value is one."""


@pytest.mark.parametrize("name", [field.name for field in fields(LoraConfig)])
def test_of_every_field_of_pefts_what_is_not_applied_is_refused_by_name(name: str) -> None:
    with pytest.raises(AdapterConfigError) as caught:
        read_config(content(**{name: REFUSED.get(name, {"a": 1})}))
    assert caught.value.field == name
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "init",
    ["pissa", "pissa_niter_4", "olora", "loftq", "eva", "corda", "mica", "lora_ga", "Gaussian", ""],
)
def test_an_initialisation_that_presupposes_another_base_is_refused_with_the_fix(init: str) -> None:
    with pytest.raises(AdapterConfigError, match="path_initial_model_for_weight_conversion"):
        read_config(content(init_lora_weights=init))


@pytest.mark.parametrize(
    ("changes", "weights", "said"),
    [
        (
            {"exclude_modules": ["q_proj"]},
            "q_proj",
            "exclude_modules: excludes model.layers.0.q_proj",
        ),
        ({"exclude_modules": ["layers.1.q_proj"]}, "q_proj", "excludes model.layers.1.q_proj"),
        ({"exclude_modules": [LAYERS[0]]}, "q_proj", "excludes model.layers.0.q_proj"),
        ({"exclude_modules": ["layers.1.q_proj"]}, "layers.0.q_proj", None),
        ({"exclude_modules": ["proj"]}, "q_proj", None),
        (
            {},
            "layers.0.q_proj",
            "names 'q_proj', but there are no weights of model.layers.1.q_proj",
        ),
        ({}, "proj", "target_modules: does not name model.layers.0.down_proj"),
        ({"target_modules": "all-linear"}, "proj", None),
        ({"target_modules": "all-linear"}, "q_proj", "no weights of model.layers.0.down_proj"),
        ({"target_modules": "all-linear"}, "", "does not name lm_head"),
    ],
)
def test_modules_that_the_weights_contradict_are_named(
    changes: dict[str, Any], weights: str, said: str | None
) -> None:
    config = read_config(content(**changes))
    modules = [layer for layer in LAYERS if layer.endswith(weights)]
    if said is None:
        config.check_modules(modules, LAYERS)
        return
    with pytest.raises(AdapterConfigError, match=said):
        config.check_modules(modules, LAYERS)


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        ("base_model.model.model.layers.0.q_proj.lora_A.weight", (LAYERS[0], "A")),
        ("base_model.model.lm_head.lora_B.weight", ("lm_head", "B")),
        ("model.layers.0.q_proj.lora_A.weight", None),
        ("base_model.model.lm_head.weight", None),
    ],
)
def test_a_tensors_name_tells_module_and_side(tensor: str, found: tuple[str, str] | None) -> None:
    assert module_and_side(tensor) == found


@pytest.mark.parametrize(
    "text",
    [
        content(base_model_name_or_path="X").replace(b'"X"', b'"\\ud83d"'),
        content(auto_mapping={}).replace(b"{}", b'{"a":' * 250 + b"1" + b"}" * 250),
        content(r=10**400),
    ],
)
def test_what_only_one_parser_takes_is_refused(text: bytes) -> None:
    with pytest.raises(AdapterConfigError):
        read_config(text)
