"""The playground in a real browser, on the contract tests' engine: what a person does and then sees."""

import asyncio
import os
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import uvicorn
from fastapi import Body, FastAPI
from starlette.responses import HTMLResponse

from inference_server.engine import EngineAdapter, EngineCompletion, Sampling
from inference_server.http.routes import playground
from inference_server.settings import Settings
from regime_w import build_all_arms
from tests.contract.client import Client, started_app
from tests.contract.fake_engine import FakeEngine
from tests.integration.browser import BROWSER, needs_browser

pytestmark = [pytest.mark.slow, needs_browser]

WAIT_S = 240

DRIVER = """
<script type="module">
  const texts = (selector) => [...document.querySelectorAll(selector)].map((found) => found.textContent);
  const until = async (holds) => { while (!holds()) await new Promise((next) => setTimeout(next, 20)); };
  const press = (key, more = {}) => document.activeElement.dispatchEvent(
    new KeyboardEvent("keydown", { key, bubbles: true, ...more }));
  const status = () => document.getElementById("status").textContent;
  const seen = () => ({
    headings: texts("#answers h2"), facts: texts("#answers header small"), waiting: texts(".waiting h3"),
    scores: texts("#answers dt"), answers: texts("#answers strong"), notes: texts("#answers section > p"),
    status: status(), focus: document.activeElement.id, columns: document.getElementById("answers").className,
    ask: document.getElementById("ask").ariaDisabled, cancel: document.getElementById("cancel").ariaDisabled,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  });
  const real = window.fetch, found = {};
  try {
    const other = document.getElementById("other");
    await until(() => other.options.length === 5);
    found.idle = { versions: [...other.options].map((option) => option.text), boxes: texts("#arms label"),
      prompt: document.querySelector("#arms label").title };
    document.getElementById("none").click();
    document.getElementById("question").focus();
    press("Enter", { ctrlKey: true });
    found.no_arm = seen();
    for (const arm of [0, 3]) document.getElementById(`arm-${arm}`).click();
    other.value = "1";
    press("Enter", { ctrlKey: true });
    await until(() => document.querySelectorAll(".arm:not(.waiting)").length === 2);
    found.waiting = seen();
    await fetch("release");
    await until(() => status() === "All have answered.");
    found.compared = seen();
    await fetch("hold");
    other.value = "";
    press("Enter", { ctrlKey: true });
    await until(() => document.querySelectorAll(".arm:not(.waiting)").length === 1);
    press("Escape");
    await until(() => status() === "Cancelled.");
    found.cancelled = seen();
    await fetch("release");
    document.getElementById("question").value = "x ".repeat(400);
    press("Enter", { ctrlKey: true });
    await until(() => status().startsWith("Too long"));
    found.too_long = seen();
    for (const code of [401, 429, 503]) {
      window.fetch = async () => new Response(JSON.stringify({ error: { message: "so it is" } }), { status: code });
      press("Enter", { ctrlKey: true });
      await until(() => status().includes("key is wrong") || status().includes("so it is"));
      found[code] = status();
      document.getElementById("status").textContent = "";
      await until(() => document.getElementById("ask").ariaDisabled === "false");
    }
    window.fetch = async () => { throw new TypeError("Failed to fetch"); };
    press("Enter", { ctrlKey: true });
    await until(() => status().includes("cannot be reached"));
    const headline = () => ({
      text: document.getElementById("server").textContent, kind: document.getElementById("server").className });
    await until(() => headline().kind === "error");
    found.away = headline();
    window.fetch = real;
    document.dispatchEvent(new Event("visibilitychange"));
    await until(() => headline().kind === "muted");
    found.back = headline();
    document.getElementById("question").value = " \\n ";
    press("Enter", { ctrlKey: true });
    found.blank = seen();
  } catch (error) {
    found.error = String(error);
  }
  await real("found", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(found) });
</script>
"""


class SlowWhenWarm(FakeEngine):
    """While `release` is not set, completions of warm arms do not finish."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()

    async def generate(
        self,
        prompt_token_ids: list[int],
        sampling: Sampling,
        adapter: EngineAdapter | None,
        replica: int | None = None,
    ) -> EngineCompletion:
        completion = await super().generate(prompt_token_ids, sampling, adapter, replica)
        if sampling.temperature > 0.3:
            await self.release.wait()
        return completion


@dataclass
class Site:
    """A server that serves the page from a thread of its own, and what the driver in the page found."""

    settings: Settings
    ports: "Queue[int]" = field(default_factory=Queue)
    found: "Queue[dict[str, Any]]" = field(default_factory=Queue)

    async def serve(self) -> None:
        engine = SlowWhenWarm()
        engine.release.set()
        app = await started_app(engine, self.settings)
        async with Client(app) as client:
            for version in (1, 2):
                await client.put_adapter(version)
        engine.release.clear()
        self._add_routes(app, engine)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
        self.server = uvicorn.Server(config)
        task = asyncio.create_task(self.server.serve())
        while not self.server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.ports.put(self.server.servers[0].sockets[0].getsockname()[1])
        await task

    def _add_routes(self, app: FastAPI, engine: SlowWhenWarm) -> None:
        async def driven() -> HTMLResponse:
            page = bytes((await playground()).body).decode()
            return HTMLResponse(page.replace("</html>", f"{DRIVER}</html>"))

        async def release() -> None:
            engine.release.set()

        async def hold() -> None:
            engine.release.clear()

        async def found(body: Any = Body()) -> None:  # noqa: B008
            self.found.put(body)

        app.add_api_route("/driven", driven)
        app.add_api_route("/release", release)
        app.add_api_route("/hold", hold)
        app.add_api_route("/found", found, methods=["POST"])


@pytest.fixture(scope="module", params=[1280, 400])
def seen(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the page shows at each stage, in a window of this width."""
    folder = tmp_path_factory.mktemp("playground")
    site = Site(Settings(model="fake/base", state_dir=folder, max_loaded_versions=3))
    thread = threading.Thread(target=lambda: asyncio.run(site.serve()))
    thread.start()
    port = site.ports.get(timeout=WAIT_S)
    browser = _browser(f"http://127.0.0.1:{port}/driven", request.param, folder)
    try:
        found = site.found.get(timeout=WAIT_S)
    finally:
        # The program may be a script that starts the browser as its child.
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()
        site.server.should_exit = True
        thread.join()
    assert "error" not in found, found["error"]
    return found


def _browser(address: str, width: int, folder: Path) -> "subprocess.Popen[bytes]":
    # With a debugging port the browser stays until it is killed.
    return subprocess.Popen(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu"),
            *("--disable-background-networking", "--remote-debugging-port=0"),
            *(f"--window-size={width},900", f"--user-data-dir={folder / 'profile'}", address),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_the_page_offers_arms_and_versions(seen: dict[str, Any]) -> None:
    assert seen["idle"] == {
        "versions": [
            *("nothing", "latest, now version 2", "the base model"),
            *("version 2", "version 1"),
        ],
        "boxes": [f"{family}_{i} 0.{i + 2}" for family in ("wolfram", "maudlin") for i in range(4)],
        "prompt": build_all_arms()[0].system_prompt,
    }
    assert seen["no_arm"]["status"] == "Choose at least one arm."
    assert seen["blank"]["status"] == "Write a question first."


def test_the_headline_follows_the_server(seen: dict[str, Any]) -> None:
    away, back = seen["away"], seen["back"]
    assert away == {"text": "The server cannot be reached. Is it still running?", "kind": "error"}
    assert back["text"].startswith("fake/base, serving version 2;")
    assert back["kind"] == "muted"


def test_two_versions_stand_side_by_side_and_answers_come_as_they_finish(
    seen: dict[str, Any],
) -> None:
    waiting, compared = seen["waiting"], seen["compared"]
    assert waiting["columns"] == compared["columns"] == "two"
    assert waiting["headings"] == compared["headings"] == ["Version 2", "Version 1"]
    assert waiting["waiting"] == ["wolfram_3", "wolfram_3"]
    assert waiting["facts"] == ["temperature 0.2", "", "temperature 0.2", ""]
    assert all(note.startswith("1 of 2 arms have answered") for note in waiting["notes"])
    assert (waiting["ask"], waiting["cancel"]) == ("true", "false")
    assert compared["waiting"] == []
    assert compared["scores"] == 2 * [
        "consensus",
        "answers agree (s_end)",
        "equations hold (s_path)",
        "families agree (s_cf)",
        "coherence (s_wm)",
    ]
    assert all(answer.isdecimal() for answer in compared["answers"])


def test_what_is_asked_can_be_cancelled_and_focus_stays(seen: dict[str, Any]) -> None:
    cancelled = seen["cancelled"]
    assert cancelled["notes"] == ["Cancelled."]
    assert (cancelled["waiting"], cancelled["ask"], cancelled["cancel"]) == ([], "false", "true")
    stages = ("no_arm", "waiting", "compared", "cancelled", "too_long")
    assert {seen[stage]["focus"] for stage in stages} == {"question"}


def test_errors_are_in_words(seen: dict[str, Any]) -> None:
    assert seen["too_long"]["status"].startswith("Too long: ")
    assert seen["too_long"]["status"].endswith("Shorten the question, or the longest answer.")
    assert seen["too_long"]["notes"] == [seen["too_long"]["status"]]
    assert seen["401"].startswith("The key is wrong or missing.")
    assert seen["429"] == "The server is busy: so it is. Ask again in a moment."
    assert seen["503"] == "The model does not answer: so it is. The server's log says why."


def test_nothing_is_wider_than_the_window(seen: dict[str, Any]) -> None:
    stages = [stage for stage in seen.values() if isinstance(stage, dict) and "overflow" in stage]
    assert [stage["overflow"] for stage in stages] == [0] * len(stages)
