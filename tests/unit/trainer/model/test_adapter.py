"""Adapters to start from: what does not fit is refused with the tensor's name, never trained from scratch."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from trainer.config.sections import PolicyConfig
from trainer.errors import UsageError
from trainer.model.adapter import AdapterState, attach_adapter
from trainer.model.base_model import load_base
from trainer.model.roles import PolicyRoles

CPU = torch.device("cpu")
PREFIX = "base_model.model."
A_NAME = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"


def renamed(old: str, new: str) -> Callable[[AdapterState], AdapterState]:
    return lambda state: {name.replace(old, new): tensor for name, tensor in state.items()}


def with_value(value: float) -> Callable[[AdapterState], AdapterState]:
    return lambda state: state | {A_NAME: torch.full_like(state[A_NAME], value)}


@pytest.fixture
def exported(make_roles: Callable[..., PolicyRoles], tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    make_roles().export_policy(folder)
    return folder


def refusal(base: Path, adapter: Path) -> str:
    config = PolicyConfig(base_model=str(base), adapter=adapter)
    with pytest.raises(UsageError, match=r"policy\.adapter") as caught:
        attach_adapter(load_base(config, CPU), config, "policy")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (renamed(PREFIX, ""), "missing tensor base_model.model.model.layers.0"),
        (renamed(PREFIX, PREFIX * 2), "tensor base_model.model."),
        (renamed("model.layers", "language_model.layers"), "language_model"),
        (lambda state: {n: t for n, t in state.items() if n != A_NAME}, f"missing tensor {A_NAME}"),
        (lambda state: state | {"lm_head.x": torch.zeros(1)}, "unexpected tensor lm_head.x"),
        (lambda state: state | {A_NAME: torch.zeros(4, 3)}, f"{A_NAME} has shape (4, 3)"),
        (with_value(float("nan")), f"{A_NAME} has a value that is not finite"),
        (lambda _: {}, "missing tensor"),
    ],
    ids=["no prefix", "doubled", "language_model", "missing", "extra", "shape", "nan", "empty"],
)
def test_tensors_that_do_not_fit_are_named(
    change: Callable[[AdapterState], AdapterState], said: str, exported: Path, tiny_base: Path
) -> None:
    weights = exported / "adapter_model.safetensors"
    save_file(change(load_file(weights)), weights)
    assert said in refusal(tiny_base, exported)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("bias", "lora_only", "bias is 'lora_only'"),
        ("use_dora", True, "use_dora is True"),
        ("modules_to_save", ["lm_head"], "modules_to_save is"),
        (
            "exclude_modules",
            ["q_proj"],
            "exclude_modules is 'q_proj': excludes model.layers.0.self_attn",
        ),
        ("init_lora_weights", "pissa", "init_lora_weights is 'pissa': "),
        ("loftq_config", {"loftq_bits": 4}, "loftq_config is {'loftq_bits': 4}: must be unset"),
        ("layers_to_transform", [0], "layers_to_transform is [0]: must be unset"),
        ("fan_in_fan_out", True, "fan_in_fan_out is True: must be unset"),
        ("rank_pattern", {"q_proj": 2}, "rank_pattern is {'q_proj': 2}"),
        ("r", 3, "has shape"),
        ("target_modules", ["nope"], "does not name model.layers.0."),
    ],
)
def test_settings_that_do_not_fit_are_named(
    setting: str, value: object, said: str, exported: Path, tiny_base: Path
) -> None:
    config = exported / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {setting: value}))
    assert said in refusal(tiny_base, exported)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("adapter_config.json", None, "no adapter_config.json in it"),
        ("adapter_config.json", b"\xef\xbb\xbf{}", "BOM"),
        ("adapter_config.json", b"\xff", "adapter_config.json: "),
        ("adapter_config.json", b"[" * 100_000, "adapter_config.json: "),
        ("adapter_config.json", b"[]", "not a LoRA adapter"),
        ("adapter_config.json", b'{"peft_type": "LORA", "r": 4, "r": 8}', "'r' is given twice"),
        ("adapter_model.safetensors", None, "adapter_model.safetensors: No such file"),
        ("adapter_model.safetensors", b"version https://git-lfs", "adapter_model.safetensors: "),
    ],
)
def test_files_that_cannot_be_read_are_named(
    name: str, content: bytes | None, said: str, exported: Path, tiny_base: Path
) -> None:
    (exported / name).unlink()
    if content is not None:
        (exported / name).write_bytes(content)
    assert said in refusal(tiny_base, exported)


@pytest.mark.parametrize("adapter", ["no/such/folder", "owner/name-of-the-hub", "x" * 5000])
def test_an_adapter_that_is_no_folder_is_one_line(adapter: str, tiny_base: Path) -> None:
    assert "there is no such folder" in refusal(tiny_base, Path(adapter))


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (
            ["adapters/policy-000002", "adapters/policy-000010", "checkpoints"],
            "it is a run's folder; name an adapter of it, such as run/adapters/policy-000010, its newest",
        ),
        (
            ["checkpoints"],
            "it has checkpoints but no adapter yet; run the command that began it again, which resumes it",
        ),
        ([], "no adapter_config.json in it"),
    ],
)
def test_a_folder_that_an_adapter_comes_from_is_named_for_what_it_is(
    folders: list[str],
    said: str,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ["", *folders]:
        (Path("run") / folder).mkdir(parents=True, exist_ok=True)
    assert said in refusal(tiny_base.resolve(), Path("run"))


def test_all_linear_is_every_linear_layer_but_the_head(tiny_base: Path) -> None:
    def targets(*modules: str) -> set[str]:
        config = PolicyConfig(base_model=str(tiny_base), target_modules=modules)
        model = attach_adapter(load_base(config, CPU), config, "policy")
        return {n for n, _ in model.named_parameters() if ".lora_" in n}

    assert targets("all-linear") == targets(*PolicyConfig().target_modules)


@pytest.mark.parametrize("module", ["q_porj", "lm_head", "embed_tokens", "self_attn", "norm"])
def test_a_module_that_is_no_linear_one_of_the_decoder_layers_is_named(
    module: str, tiny_base: Path
) -> None:
    config = PolicyConfig(base_model=str(tiny_base), target_modules=("q_proj", module))
    said = rf"policy\.target_modules: .* have no linear module '{module}'; they have .*q_proj"
    with pytest.raises(UsageError, match=said):
        attach_adapter(load_base(config, CPU), config, "policy")


@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of embeddings that are tied
@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
@pytest.mark.parametrize("with_base", [True, False])
def test_a_starting_adapter_of_other_modules_is_refused(
    module: str, with_base: bool, tiny_base: Path, tmp_path: Path
) -> None:
    base = load_base(PolicyConfig(base_model=str(tiny_base)), CPU)
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj", module]))
    model.save_pretrained(tmp_path, save_embedding_layers=with_base)
    said = refusal(tiny_base, tmp_path)
    assert ("unexpected tensor" if with_base else "not a linear module of the decoder") in said
    assert module in said


@pytest.mark.parametrize("targets", [(), ("all-linear", "q_proj")])
def test_target_modules_that_say_nothing_are_refused(targets: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="all-linear alone"):
        PolicyConfig(target_modules=targets)
