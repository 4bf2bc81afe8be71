"""The command line: what is refused before vLLM is imported, and with which message."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from inference_server.launch.launcher import main
from inference_server.launch.state_dir import claim_state_dir
from inference_server.settings import Settings, read_settings
from inference_server.wire.settings.errors import SettingsError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("REGIME_W_")]:
        monkeypatch.delenv(name)


def settings_of(*argv: str) -> Settings:
    settings, vllm_flags = read_settings(argv)
    assert vllm_flags == []
    return settings


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return str(folder)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, "one line"
    return err


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "--model: Field required"),
        (["--model", "./nowhere"], "--model ./nowhere: no such folder"),
        (["--model", "/nowhere/at/all"], "--model /nowhere/at/all: no such folder"),
        (["--model", "a/b/c"], "--model a/b/c: no such folder"),
        (["--model", "."], "--model .: the folder has no config.json"),
        (["--model", __file__], "no such folder"),
        (["--model", "m", "--port", "eighty"], "--port: Input should be a valid integer"),
        (
            ["--model", "m", "--port", "70000"],
            "--port: Input should be less than or equal to 65535",
        ),
        (["--model", "m", "--max-loaded-versions", "1"], "--max-loaded-versions: "),
        (["--model", "m", "--max-questions", "9999"], "max_questions (9999) must not exceed"),
        (
            ["--model", "m", "--max-questions", "5000", "--max-groups-in-flight", "6000"],
            "max_questions (5000) must not exceed 4096",
        ),
        (["--model", "m", "--config", "/nowhere.toml"], "--config /nowhere.toml: "),
        (["--model", "m", "--host", "not.a.host.invalid"], "REGIME_W_API_KEY"),
    ],
)
def test_bad_command_lines_are_one_line_that_names_the_setting(
    capsys: pytest.CaptureFixture[str],
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert line in refused(capsys, *argv)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_without_a_key_only_loopback_is_listened_on(
    capsys: pytest.CaptureFixture[str], model: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ("--model", model, "--host", host)
    assert "set REGIME_W_API_KEY" in refused(capsys, *argv)
    monkeypatch.setenv("REGIME_W_API_KEY", "")
    assert "set REGIME_W_API_KEY" in refused(capsys, *argv)


@pytest.mark.parametrize(
    "key", ["", " ", "\t\n", " s3cret", "s3cret\n", "s3crét", "ключ", "s3\x00cret", "s3\ncret"]
)
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(
    capsys: pytest.CaptureFixture[str],
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    argv = ("--model", model, "--host", "0.0.0.0")
    config = tmp_path / "server.toml"
    for table, name in (("", "api_key"), ("[serve]\n", "serve.api_key")):
        config.write_text(f"{table}api_key = {json.dumps(key)}\n")
        line = refused(capsys, *argv, "--config", str(config))
        assert line.startswith(f"inference_server: {name}: must be printable ASCII")
        assert line.endswith(f", in {config}\n")
        assert "s3" not in line.removesuffix(f"{config}\n")
    if key and "\x00" not in key:
        monkeypatch.setenv("REGIME_W_API_KEY", key)
        assert "REGIME_W_API_KEY: must be printable ASCII" in refused(capsys, *argv)


@pytest.mark.parametrize("key", ["s3cret", "x", "two words", "a=/+~!"])
def test_other_keys_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("REGIME_W_API_KEY", key)
    held = settings_of("--model", "m", "--host", "0.0.0.0").api_key
    assert held is not None
    assert held.get_secret_value() == key


def test_a_port_in_use_is_found_before_the_engine_starts(
    capsys: pytest.CaptureFixture[str], model: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = refused(capsys, "--model", model, "--port", port)
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in line


@pytest.mark.parametrize("port", ["REGIME_W_PORT", "REGIME_W_SERVE__PORT"])
@pytest.mark.parametrize("table", ["", "[serve]\n"])
def test_flags_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: str, table: str
) -> None:
    config = tmp_path / "server.toml"
    config.write_text(
        table + 'model = "from-file"\nport = 1\nmax_questions = 1\nmax_samples_per_arm = 1'
    )
    monkeypatch.setenv(port, "2")
    monkeypatch.setenv(port.replace("PORT", "MAX_QUESTIONS"), "2")
    monkeypatch.setenv("REGIME_W_HOST", "")
    settings = settings_of("--port", "3", "--config", str(config))
    assert settings.max_samples_per_arm == 1
    assert (settings.model, settings.host) == ("from-file", "127.0.0.1")
    assert (settings.port, settings.max_questions) == (3, 2)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('model = "m"\nprot = 1', "prot: unknown key; did you mean port?"),
        ('model = "m"\nport = 0', "port: Input should be greater than or equal to 1"),
        ("model =", "Invalid value"),
        ("[model]", "model: Input should be a valid string"),
    ],
)
def test_bad_files_name_the_key_and_the_file(tmp_path: Path, toml: str, words: str) -> None:
    config = tmp_path / "server.toml"
    config.write_text(toml)
    with pytest.raises(SettingsError) as refusal:
        settings_of("--config", str(config))
    assert words in str(refusal.value)
    assert str(config) in str(refusal.value)


def test_a_missing_model_names_the_flag_or_key_that_may_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = "inference_server: --model: Field required"
    flags = ["--modle", "m", "--tensor-parallel-size=2"]
    assert main(flags) == 2
    assert capsys.readouterr().err.splitlines() == [
        missing,
        "inference_server: --modle: unknown flag; did you mean --model?",
    ]
    config = tmp_path / "server.toml"
    config.write_text('[policy]\nbase_modle = "m"\n')
    meant = "unknown key; did you mean policy.base_model?"
    assert main(["--config", str(config)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        missing,
        f"inference_server: policy.base_modle: {meant}, in {config}",
    ]
    monkeypatch.setenv("REGIME_W_POLICY__BASE_MODLE", "m")
    assert main([]) == 2
    assert capsys.readouterr().err.splitlines() == [
        missing,
        f"inference_server: policy.base_modle, from REGIME_W_POLICY__BASE_MODLE: {meant}",
    ]


def test_a_bad_base_model_of_the_recipe_names_its_key_and_the_file(tmp_path: Path) -> None:
    config = tmp_path / "recipe.toml"
    config.write_text("[policy]\nbase_model = 3\n")
    with pytest.raises(SettingsError) as refusal:
        settings_of("--config", str(config))
    assert refusal.value.lines == (
        f"policy.base_model: Input should be a valid string (got 3), in {config}",
    )


def test_a_missing_model_folder_is_told_whether_or_not_the_port_is_free(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = refused(capsys, "--model", "./nowhere", "--port", port)
    assert "--model ./nowhere: no such folder" in line


def test_bad_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_W_PORT", "x")
    with pytest.raises(SettingsError, match="REGIME_W_PORT: Input should be a valid integer"):
        settings_of("--model", "m")


def test_one_file_is_for_server_and_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "recipe.toml"
    config.write_text(
        '[policy]\nbase_model = "b"\n[ppo]\nnum_epochs = 2\n[serve]\nmax_loaded_versions = 8\n'
        "gpu_memory_utilization = 0.5\nmax_model_len = 512\nmax_lora_rank = 32\n"
    )
    settings = settings_of("--config", str(config))
    assert (settings.model, settings.max_loaded_versions) == ("b", 8)
    assert settings.gpu_memory_utilization == 0.5
    assert (settings.max_model_len, settings.max_lora_rank) == (512, 32)
    assert settings_of("--config", str(config), "--model", "m").model == "m"
    monkeypatch.setenv("REGIME_W_POLICY__BASE_MODEL", "c")
    assert settings_of("--config", str(config)).model == "c"
    config.write_text('[policy]\nbase_model = "b"\n[serve]\nmodel = "b-in-16-bits"\n')
    assert settings_of("--config", str(config)).model == "b-in-16-bits"


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ("[sevre]\nport = 1", "sevre: unknown key; did you mean serve?"),
        ("[serve]\nprot = 1", "serve.prot: unknown key; did you mean serve.port?"),
        ("[serve]\nport = 0", "serve.port: Input should be greater than or equal to 1 (got 0)"),
    ],
)
def test_a_bad_table_names_the_key_and_the_file(tmp_path: Path, toml: str, line: str) -> None:
    config = tmp_path / "recipe.toml"
    config.write_text(toml)
    with pytest.raises(SettingsError) as refusal:
        settings_of("--model", "m", "--config", str(config))
    assert refusal.value.lines == (f"{line}, in {config}",)


@pytest.mark.parametrize("flag", ["--state-dir", "--state_dir"])
def test_flags_are_read_with_hyphens_and_underscores(flag: str) -> None:
    assert settings_of("--model", "m", flag, "s").state_dir == Path("s")


def test_other_flags_go_to_vllm_as_they_are() -> None:
    others = [
        "--hf-overrides",
        '{"a": [1, 2]}',
        "--served_model_name",
        "a b",
        "-tp",
        "2",
        "--x=",
        "",
    ]
    others += ["--max-model-len", "4k", "--max_lora_rank=32", "--gpu-memory-utilization", "0.5"]
    settings, vllm_flags = read_settings(["--model", "m", *others, "--port=1"])
    assert (settings.port, vllm_flags) == (1, others)


def test_the_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_W_API_KEY", "s3cret")
    settings = settings_of("--model", "m")
    assert "s3cret" not in repr(settings)
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "s3cret"


def test_a_state_folder_keeps_adapters_and_is_held_by_one_server(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    (folder / "policy-000001").mkdir(parents=True)
    (folder / ".incoming-x").mkdir()
    (folder / "notes.txt").touch()
    with claim_state_dir(folder) as claimed:
        assert sorted(path.name for path in claimed.iterdir()) == [
            ".lock",
            "notes.txt",
            "policy-000001",
        ]
        with pytest.raises(SettingsError, match="another server"), claim_state_dir(folder):
            pass
    with claim_state_dir(folder):
        pass


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(SettingsError, match="--state-dir"),
        claim_state_dir(tmp_path / "file" / "x"),
    ):
        pass


def test_odd_things_in_a_state_folder_are_cleared_or_named(tmp_path: Path) -> None:
    folder, outside = tmp_path / "state", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / ".incoming-link").symlink_to(outside)
    (folder / ".incoming-dangling").symlink_to(tmp_path / "nowhere")
    (folder / ".incoming-file").touch()
    with claim_state_dir(folder) as claimed:
        assert [path.name for path in claimed.iterdir()] == [".lock"]
    assert outside.is_dir()
    (folder / "registry.json").mkdir()
    with (
        pytest.raises(SettingsError, match=r"registry\.json is not a file"),
        claim_state_dir(folder),
    ):
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_record_that_cannot_be_read_whole_is_named_before_the_engine_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A disk's error may lie behind its first bytes."""
    record = tmp_path / "registry.json"
    record.write_text("{}")

    def fail(path: Path) -> bytes:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with (
        pytest.raises(
            SettingsError, match=rf"--state-dir .*: registry\.json: {os.strerror(number)}"
        ),
        claim_state_dir(tmp_path),
    ):
        pass


@pytest.mark.parametrize("is_permitted", [True, False])
def test_a_damaged_record_is_set_aside_before_the_engine_starts_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_permitted: bool
) -> None:
    """The next record would overwrite one that cannot be renamed, as in a folder with the sticky bit."""
    record = tmp_path / "registry.json"
    record.write_text("{")
    if is_permitted:
        with claim_state_dir(tmp_path):
            assert not record.exists()
        assert (tmp_path / "refused-registry.json").read_text() == "{"
        return

    def refuse(path: Path, target: Path) -> Path:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(Path, "rename", refuse)
    expected = (
        r"registry\.json is damaged and cannot be renamed \(Operation not permitted\): move it away"
    )
    with pytest.raises(SettingsError, match=expected), claim_state_dir(tmp_path):
        pass
    assert record.read_text() == "{"


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_lock_that_is_no_file_is_named(tmp_path: Path, kind: str) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept")
    if kind == "folder":
        (tmp_path / ".lock").mkdir()
    else:
        (tmp_path / ".lock").symlink_to(kept)
    with pytest.raises(SettingsError, match="--state-dir"), claim_state_dir(tmp_path):
        pass
    assert kept.read_text() == "kept"


def test_the_default_state_folder_goes_with_the_server() -> None:
    with claim_state_dir(None) as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_help_and_schemas_load_neither_torch_nor_vllm() -> None:
    code = (
        "import sys, contextlib, io\n"
        "import inference_server.wire.schemas\n"
        "from inference_server.launch.launcher import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "    main(['--help'])\n"
        "assert '--max-loaded-versions' in out.getvalue()\n"
        "assert 'vllm serve' in out.getvalue()\n"
        "print({'torch', 'vllm', 'transformers'} & set(sys.modules))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"


IMPORTING = """
import os, signal, sys, types

class Importing(types.ModuleType):
    def __getattr__(self, name):
        if name == "serve":
            try:
                if sys.argv[1] == "stopped":
                    os.kill(os.getpid(), signal.SIGTERM)
            except BaseException:  # as some libraries do
                return lambda *arguments: print("serves")
            raise RuntimeError("a library's own error")
        raise AttributeError(name)

sys.modules["inference_server.launch.vllm_server"] = Importing("vllm_server")
os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
from inference_server.launch.launcher import main
from inference_server.launch.server_process import free_port

sys.exit(main(["--model", sys.argv[2], "--port", str(free_port())]))
"""


@pytest.mark.parametrize(("what", "exit_code"), [("stopped", 0), ("failed", 1)])
def test_a_stop_while_libraries_are_imported_is_one_whatever_they_catch(
    tmp_path: Path, what: str, exit_code: int
) -> None:
    model, temporary = tmp_path / "model", tmp_path / "temporary"
    model.mkdir()
    temporary.mkdir()
    (model / "config.json").write_text("{}")
    result = subprocess.run(
        [sys.executable, "-c", IMPORTING, what, str(model)],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert (result.returncode, "Traceback" in result.stderr) == (exit_code, exit_code == 1)
    assert "serves" not in result.stdout
    # The state folder of a server without --state-dir is a temporary one.
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    "variable", ["REGIME_W_PROT", "REGIME_W_SERVE_PORT", "REGIME_W_MAX_QUESTION"]
)
def test_a_variable_that_is_nearly_a_key_is_refused(
    variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    assert f"from {variable}: unknown key; did you mean" in refused(capsys, "--model", "m")


@pytest.mark.parametrize("variable", ["REGIME_W_MODELS", "REGIME_W_GSM8K_DIR"])
def test_variables_of_the_trainer_are_left_alone(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    assert settings_of("--model", "m").model == "m"


def test_a_port_at_the_top_and_in_the_table_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "server.toml"
    path.write_text('port = 1\n[serve]\nport = 2\nmodel = "m"\n')
    line = refused(capsys, "--config", str(path))
    assert line.startswith("inference_server: port: given here and as serve.port")
