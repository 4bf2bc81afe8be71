"""deploy/supervise.sh, which starts a service again in its container."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.processes import killed_at_the_end
from tests.waiting import wait_until

SCRIPT = Path(__file__).resolve().parents[2] / "deploy/supervise.sh"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def supervised() -> Iterator[Start]:
    """Starts a command under the script; what still runs after the test is killed."""
    with ExitStack() as until_the_end:

        def start(command: str, *, restart_s: int = 0, **more: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                ["sh", str(SCRIPT), "sh", "-c", command],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={"PATH": "/usr/bin:/bin", "RESTART_S": str(restart_s), **more},
            )
            return until_the_end.enter_context(killed_at_the_end(process))

        yield start


def is_running(pid: int) -> bool:
    try:
        # A zombie has ended; its new parent has not read its exit code yet.
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("codes", "num_starts", "said"),
    [
        ([0], 1, ""),
        ([2], 1, "exit code 2: fix the problem reported above and start it again"),
        ([1, 0], 2, "exit code 1; started again"),
        ([3, 137, 2, 0], 3, "exit code 2"),
        ([*[3] * 8, 0], 9, "exit code 3; started again"),
    ],
)
def test_what_passes_is_started_again_and_what_needs_a_mend_is_not(
    codes: list[int], num_starts: int, said: str, tmp_path: Path, supervised: Start
) -> None:
    left = tmp_path / "codes"
    left.write_text("".join(f"{code}\n" for code in codes))
    process = supervised(f'echo x; code=$(head -n 1 "{left}"); sed -i 1d "{left}"; exit $code')
    out, err = process.communicate(timeout=300)
    assert process.returncode == codes[num_starts - 1]
    assert out.count("x") == num_starts
    assert said in err


@pytest.mark.parametrize("takes_s", [0, 0.3])
@pytest.mark.parametrize(("more", "code"), [({}, 0), ({"STOPPED_CODE": "143"}, 143)])
def test_a_stop_waits_for_the_command_to_end_by_itself(
    takes_s: float, more: dict[str, str], code: int, supervised: Start
) -> None:
    process = supervised(
        f'trap "sleep {takes_s}; echo checkpoint; exit 0" TERM; echo up; while :; do sleep 0.05; done',
        **more,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert (process.returncode, out) == (code, "checkpoint\n")


def test_a_stop_is_not_lost_while_the_command_is_being_started(supervised: Start) -> None:
    # In its first milliseconds the command is a fork of the script, which catches the signal.
    for delay_s in (0.0, 0.001, 0.002, 0.003, 0.004) * 10:
        process = supervised("exec sleep 100000")
        time.sleep(delay_s)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
        assert process.returncode in (143, -signal.SIGTERM)


def test_a_finished_command_is_no_stopped_one(supervised: Start) -> None:
    process = supervised("exit 0", STOPPED_CODE="143")
    process.communicate(timeout=300)
    assert process.returncode == 0


def test_a_stop_between_two_starts_ends_it(supervised: Start) -> None:
    process = supervised("exit 1", restart_s=100_000)
    assert process.stderr is not None
    assert "started again in" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode == 1


def test_what_a_command_leaves_behind_is_ended(tmp_path: Path, supervised: Start) -> None:
    number = tmp_path / "pid"
    process = supervised(f'sleep 100000 >/dev/null 2>&1 & echo $! > "{number}"; exit 2')
    process.communicate(timeout=300)
    wait_until(lambda: not is_running(int(number.read_text())))
