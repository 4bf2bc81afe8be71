"""The live page: what it shows before the first step and after each one, and whose requests it answers."""

import json
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from threading import Thread

import pytest

from trainer.errors import UsageError
from trainer.report.watch import Watch
from trainer.run_state.journal import Journal


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text("[run]\nnum_steps = 9\n")
    return tmp_path


@pytest.fixture
def watch(run: Path) -> Iterator[Watch]:
    with Watch(run, 0) as watch:
        thread = Thread(target=watch.serve)
        thread.start()
        yield watch
        watch.stop()
        thread.join()


def get(watch: Watch, path: str, host: str | None = None) -> tuple[HTTPResponse, str]:
    address = watch.address.removeprefix("http://")
    connection = HTTPConnection(address)
    connection.request("GET", path, headers={"Host": address if host is None else host})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def add_line(run: Path, row: dict[str, float]) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def add_step(run: Path, step: int) -> None:
    add_line(run, {"step": step, "time": time.time(), "version": step, "reward/mean": 0.5})


def test_the_page_waits_for_the_first_step_and_shows_steps_as_they_come(
    run: Path, watch: Watch
) -> None:
    answer, page = get(watch, "/")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "Waiting for the first step" in page
    first = json.loads(get(watch, "/state")[1])
    assert (first["age_s"], f'data-state="{first["state"]}"' in page) == (None, True)
    add_step(run, 1)
    second = json.loads(get(watch, "/state")[1])
    assert second["state"] != first["state"]
    assert second["age_s"] >= 0
    page = get(watch, "/")[1]
    assert "Waiting for the first step" not in page
    assert "step 1 of 9 · last served version 1" in page
    assert f'data-state="{second["state"]}"' in page
    assert get(watch, "/")[1] == page
    add_step(run, 2)
    assert "step 2 of 9" in get(watch, "/")[1]


def test_the_age_of_the_newest_step_is_that_of_its_line_and_not_of_the_file(
    run: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def age_s() -> float | None:
        found: float | None = json.loads(watch.state())["age_s"]
        return found

    monkeypatch.setattr("trainer.report.watch.time.time", lambda: 5000.0)
    # As a start of SFT or of a run leaves it.
    (run / "metrics.jsonl").touch()
    assert age_s() is None
    add_line(run, {"step": 1, "reward/mean": 0.5})
    assert age_s() is None  # an older version wrote no time
    add_line(run, {"step": 2, "time": 4000.0, "reward/mean": 0.5})
    assert age_s() == 1000
    add_line(run, {"step": 2, "time": 4900.0, "eval/step": 2, "eval/accuracy": 0.5})
    assert age_s() == 1000  # an evaluation is no step
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "ti')
    assert age_s() == 1000
    monkeypatch.setattr("trainer.report.watch.time.time", lambda: 3000.0)
    assert age_s() == 0


def test_a_run_whose_metrics_were_lost_is_not_waiting_for_its_first_step(
    run: Path, watch: Watch
) -> None:
    (run / "checkpoints/step-000009").mkdir(parents=True)
    page = get(watch, "/")[1]
    assert "step 9 of 9 · its metrics are lost · finished" in page
    assert "Waiting for the first step" not in page
    assert "the file was lost" in page


def test_the_page_says_whether_the_run_goes_on(run: Path, watch: Watch) -> None:
    add_step(run, 1)
    assert json.loads(get(watch, "/state")[1])["is_running"] is None
    with Journal(run):
        at_work = json.loads(get(watch, "/state")[1])
        assert "step 1 of 9 · running · " in get(watch, "/")[1]
    stopped = json.loads(get(watch, "/state")[1])
    assert (at_work["is_running"], stopped["is_running"]) == (True, False)
    # The page is fetched again, although no file has changed.
    assert at_work["state"] != stopped["state"]
    assert "step 1 of 9 · not running, stopped before its last step · " in get(watch, "/")[1]


def test_the_page_loads_from_its_server_alone(watch: Watch) -> None:
    answer, page = get(watch, "/")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert len(page) < 100_000  # plotly.js is asked for once, not with each step
    answer, library = get(watch, "/plotly.js")
    assert "immutable" in answer.headers["Cache-Control"]
    assert "Plotly" in library


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:1", 200),
        ("localhost", 200),
        ("[::1]:8100", 200),
        ("rebound.example", 403),
        ("127.0.0.1.rebound.example:8100", 403),
        ("192.168.0.7", 403),
        ("", 403),
    ],
)
def test_only_loopback_names_are_answered(watch: Watch, host: str, status: int) -> None:
    for path in ("/", "/state", "/plotly.js"):
        answer, text = get(watch, path, host)
        assert answer.status == status
        assert (text == "Host: only 127.0.0.1 and localhost are answered\n") == (status == 403)


@pytest.mark.parametrize("path", ["/config.toml", "/../config.toml", "/metrics.jsonl"])
def test_no_file_is_served(watch: Watch, path: str) -> None:
    answer, text = get(watch, path)
    assert (answer.status, text) == (404, "the page is at /\n")


def test_a_run_folder_that_is_gone_is_reported(run: Path, watch: Watch) -> None:
    (run / "config.toml").unlink()
    run.rmdir()
    answer, text = get(watch, "/")
    assert (answer.status, text) == (500, f"there is no run folder {run}\n")
    run.mkdir()


def test_a_folder_without_a_run_and_a_port_in_use_are_refused(
    run: Path, watch: Watch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(UsageError, match=f"no run was begun in {empty}; name the run's own"):
        Watch(empty, 0)
    port = int(watch.address.rpartition(":")[2])
    with pytest.raises(UsageError, match=f"port {port}: .*in use; give another with --port"):
        Watch(run, port)


def test_ctrl_c_ends_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Watch(run, 0) as watch:
        monkeypatch.setattr(
            "socketserver.BaseServer.serve_forever",
            lambda _: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        watch.serve()
