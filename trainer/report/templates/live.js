  const POLL_MS = 2000;
  const part = (page, name) => page.getElementById(`part-${name}`);
  const NAMES = ["progress", "settings", "verdict", "evaluation", "summary", "curves", "transcripts"];
  const shown = Object.fromEntries(NAMES.map((name) => [name, part(document, name).innerHTML]));
  let state = document.body.dataset.state;
  // The parts of the newest page that are not shown yet; one that the reader is using is replaced in a later poll.
  const waiting = new Map();
  drawAll();

  const ids = (page) => [...page.querySelectorAll(".chart")].map((chart) => chart.id).join();

  // Whether the reader has focused, opened or selected something in an element, which then stays as it is until they leave it.
  function isInUse(element) {
    const selection = getSelection();
    return element.contains(document.activeElement) || element.querySelector("details[open]")
      || (!selection.isCollapsed && element.contains(selection.anchorNode));
  }

  function replacePart(name, next) {
    const old = part(document, name), source = next.innerHTML;
    if (source !== shown[name] && name !== "curves" && isInUse(old)) return;
    waiting.delete(name);
    if (source === shown[name]) return;
    shown[name] = source;
    if (name !== "curves" || ids(old) !== ids(next)) {
      old.replaceWith(next);
      next.querySelectorAll(".chart").forEach(draw);
      return;
    }
    // If the charts are the same, they are only redrawn, so that they keep their place, their focus and their hidden curves.
    for (const chart of old.querySelectorAll(".chart")) {
      const figure = next.querySelector(`#${CSS.escape(chart.id)}`).parentElement;
      chart.parentElement.querySelector("figcaption p").textContent = figure.querySelector("figcaption p").textContent;
      chart.nextElementSibling.textContent = figure.querySelector("script").textContent;
      draw(chart);
    }
  }

  async function ask(path) {
    const answer = await fetch(path, { cache: "no-store" }).catch(() => { throw new Error("regime-w watch has ended"); });
    if (!answer.ok) throw new Error((await answer.text()).trim());
    return answer;
  }

  function ago(seconds) {
    if (seconds < 90) return `${Math.round(seconds)} s`;
    return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
  }

  async function poll() {
    try {
      const now = await (await ask("state")).json();
      if (now.state !== state && !document.hidden) {
        const next = new DOMParser().parseFromString(await (await ask(".")).text(), "text/html");
        for (const name of NAMES) waiting.set(name, part(next, name));
        state = next.body.dataset.state;
      }
      for (const [name, next] of waiting) replacePart(name, next);
      const age = now.age_s === null ? "" : ` The newest {{ "step ended" if subject == "run" else "line was written" }} ${ago(now.age_s)} ago.`;
      document.getElementById("age").textContent = `${now.is_running === false ? "Not running." : "Live."}${age}`;
      document.getElementById("lost").textContent = "";
    } catch (error) {
      document.getElementById("lost").textContent = `Not refreshed: ${error.message}.`;
    }
    setTimeout(poll, POLL_MS);
  }
  poll();
