"""Pushing to the Hub, against a stand-in of its API: one commit, and a token that nobody sees."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from tests.unit.hub_stub import TOKEN, Hub, running_hub
from trainer.errors import UsageError
from trainer.export.hub import push, require_pushable

# Of huggingface_hub, about how it calls its HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

FILES = {"README.md": b"---\ntags:\n- regime-w\n---\n", "adapter_model.safetensors": b"\1" * 99}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # Read from the environment (HF_ENDPOINT, HF_HUB_DISABLE_XET) when the library was imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with running_hub() as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("private", [True, False])
def test_a_push_makes_the_repository_and_one_commit(private: bool, hub: Hub, folder: Path) -> None:
    require_pushable("owner/model", force=False)
    assert hub.files == {}
    url = push(folder, "owner/model", private=private)
    assert url == f"{hub.url}/owner/model"
    assert hub.visibility["owner/model"] == ("private" if private else "public")
    assert hub.files["owner/model"] == {".gitattributes": b"", **FILES}
    assert hub.commits == [["header", "file", "lfsFile"]]


def test_further_chat_templates_are_pushed_in_their_folder(hub: Hub, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    )
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(tmp_path)
    assert any(path.is_dir() for path in tmp_path.iterdir())
    push(tmp_path, "owner/model", private=True)
    found = hub.files["owner/model"]
    assert found["additional_chat_templates/tool_use.jinja"] == b"{{ tools }}"
    assert found.keys() - {".gitattributes"} == {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    }


def test_files_of_others_are_replaced_only_by_force(hub: Hub, folder: Path) -> None:
    hub.files["owner/model"] = {".gitattributes": b"", "model.safetensors": b"old"}
    with pytest.raises(UsageError, match=r"hub:owner/model has files already; .*--force"):
        require_pushable("owner/model", force=False)
    require_pushable("owner/model", force=True)
    push(folder, "owner/model", private=True)
    assert hub.files["owner/model"] == {".gitattributes": b"", **FILES}
    assert len(hub.commits) == 1


def test_a_repository_that_was_made_by_hand_is_filled(hub: Hub, folder: Path) -> None:
    hub.files["owner/model"] = {".gitattributes": b""}
    require_pushable("owner/model", force=False)
    push(folder, "owner/model", private=True)
    assert hub.files["owner/model"].keys() == {".gitattributes", *FILES}


@pytest.mark.parametrize(
    ("token", "said"), [("hf_another_secret", "set HF_TOKEN"), ("", "set HF_TOKEN")]
)
def test_a_missing_or_a_wrong_token_is_one_line_without_it(
    token: str, said: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.utils._auth._get_token_from_file", lambda: None)
    with pytest.raises(UsageError, match=said) as caught:
        require_pushable("owner/model", force=False)
    assert "\n" not in str(caught.value)
    assert token == "" or token not in str(caught.value)


@pytest.mark.parametrize("at", ["/api/repos/create", "/preupload/", "/commit/"])
def test_an_error_of_the_hub_leaves_no_file_and_no_token_in_the_message(
    at: str, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library waits for seconds before each of its retries.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.refuses = at
    with pytest.raises(UsageError, match="to: hub:owner/model: ") as caught:
        push(folder, "owner/model", private=True)
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hub.files.get("owner/model", {}).keys() <= {".gitattributes"}


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="the same command tries again"):
        require_pushable("owner/model", force=False)
