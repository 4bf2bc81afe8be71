"""The report in a real browser: no console message, no request, every chart drawn, no overflow."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from tests.integration.browser import BROWSER, needs_browser
from trainer.report.page import report_run
from trainer.report.watch import Watch

MADE_RUN = Path(__file__).parent.parent / "fixtures/verdict/kl_blow_up"
# What the network log gives as the origin of a request that no page made.
NO_ORIGIN = "not an origin"

pytestmark = [pytest.mark.slow, needs_browser]

PROBE = """
<script>
  const page = document.documentElement;
  const drawn = () => [...document.querySelectorAll(".js-plotly-plot")]
    .filter((chart) => chart.querySelector(".main-svg .trace"));
  const figures = () => document.querySelectorAll("figure").length;
  const measure = () => {
    document.title = JSON.stringify({
      drawn: drawn().length,
      figures: figures(),
      overflow: page.scrollWidth - page.clientWidth,
      wide: drawn().filter((chart) => chart.querySelector(".main-svg").clientWidth > chart.clientWidth + 1).length,
    });
  };
  // Messages, unlike timers, let no virtual time pass, so this waits for the library however long it takes to unpack.
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => (drawn().length < figures() ? port2.postMessage(0) : setTimeout(measure, 1500));
  addEventListener("load", () => port2.postMessage(0));
</script>
"""


def browse(page: str, width: int, folder: Path) -> tuple[str, str, list[str]]:
    """The page's DOM after its scripts ran, its console messages, and every URL that it asked for."""
    log = folder / "net.json"
    done = subprocess.run(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu"),
            *("--disable-background-networking", "--enable-logging=stderr"),
            *(f"--window-size={width},2000", "--virtual-time-budget=20000"),
            *(f"--log-net-log={log}", f"--user-data-dir={folder / 'profile'}", "--dump-dom"),
            page,
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    events = json.loads(log.read_text())["events"]
    parameters = [event.get("params", {}) for event in events]
    return done.stdout, console, [asked_for(p) for p in parameters if is_of_the_page(p)]


def is_of_the_page(event: dict[str, Any]) -> bool:
    """Whether the page caused a network event: a request, or a connection opened ahead of one.

    The full browser, unlike the headless shell, also asks for its own updates, dictionaries and
    accounts. Those requests have no origin as their initiator and no file as their top frame.
    """
    by_an_origin = event.get("initiator", NO_ORIGIN) != NO_ORIGIN
    return by_an_origin or str(event.get("network_anonymization_key", "")).startswith("file:")


def asked_for(event: dict[str, Any]) -> str:
    """The URL of a request; the origin of a look-up or a connection."""
    return str(event["url"] if "url" in event else event["host"])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(MADE_RUN, tmp_path_factory.mktemp("run") / "kl_blow_up"))
    return report_run(run, Console(quiet=True))


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_quiet_asks_for_nothing_and_fits(
    report: Path, width: int, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    page.write_text(report.read_text().replace("</body>", f"{PROBE}</body>"))
    dom, console, urls = browse(page.as_uri(), width, tmp_path)
    assert console == ""
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    title = re.search("<title>(.*)</title>", dom)
    assert title is not None
    found = json.loads(title.group(1).replace("&quot;", '"'))
    assert found["figures"] >= 10
    assert found == {
        "drawn": found["figures"],
        "figures": found["figures"],
        "overflow": 0,
        "wide": 0,
    }
    assert "No, it hurts." in dom


def test_a_live_page_shows_a_step_that_comes_while_it_is_open(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(MADE_RUN, run)
    steps = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    # The version that made this run wrote no time, without which a step has no age.
    steps[-1] = json.dumps(json.loads(steps[-1]) | {"time": 1.75e9}) + "\n"
    (run / "metrics.jsonl").write_text("")

    class Growing(Watch):
        def page(self) -> bytes:
            page = super().page()
            (run / "metrics.jsonl").write_text("".join(steps))
            return page

    with Growing(run, 0) as watch:
        thread = Thread(target=watch.serve)
        thread.start()
        dom, console, urls = browse(watch.address, 400, tmp_path)
        watch.stop()
        thread.join()
    assert console == ""
    assert "Waiting for the first step" not in dom
    assert "No, it hurts." in dom
    assert dom.count("js-plotly-plot") == dom.count("<figure") >= 10
    assert "The newest step ended" in dom
    assert {url for url in urls if not url.startswith((watch.address, "data:"))} == set()


def test_a_page_that_complains_and_asks_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<script>console.error("broken"); fetch("http://127.0.0.1:9/fetched").catch(() => 0);'
        'new WebSocket("ws://127.0.0.1:9/socket")</script>'
        '<img src="http://127.0.0.1:9/pixel.png"><iframe src="http://127.0.0.1:9/frame"></iframe>'
    )
    _, console, urls = browse(page.as_uri(), 400, tmp_path)
    assert "broken" in console
    asked = {"http://127.0.0.1:9/fetched", "http://127.0.0.1:9/pixel.png"}
    asked |= {"http://127.0.0.1:9/frame", "ws://127.0.0.1:9/socket"}
    assert asked <= set(urls)
    assert not [url for url in urls if "127.0.0.1:9" not in url and not url.startswith("file:")]
