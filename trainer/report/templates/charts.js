  // Charts use the page's colours, and are redrawn when the colour scheme changes.
  function colours() {
    const page = getComputedStyle(document.body);
    return {
      font: { color: page.color, family: page.fontFamily },
      hoverlabel: { bgcolor: page.backgroundColor, font: { color: page.color } },
    };
  }

  // Whoever drags a finger over a chart wants to scroll; with a mouse, dragging zooms.
  const dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";

  function sayUndrawn({ message }) {
    const said = document.getElementById("undrawn");
    // The first error is the cause of the others.
    if (!said.textContent) said.textContent = `The charts cannot be drawn: ${message}.`;
  }

  // Draws a chart, or redraws it from the present content of its script element; arms that the reader asked for stay shown.
  function draw(chart) {
    const figure = JSON.parse(chart.nextElementSibling.textContent);
    const button = chart.parentElement.querySelector(".more");
    if (button?.getAttribute("aria-pressed") === "true") {
      for (const trace of figure.data) if (trace.meta === "on demand") trace.visible = true;
    }
    const layout = { ...figure.layout, ...colours(), dragmode, uirevision: "kept" };
    try {
      Plotly.react(chart, figure.data, layout, { displayModeBar: false, responsive: true });
    } catch (error) {
      sayUndrawn(error);
    }
  }

  const drawAll = () => document.querySelectorAll(".chart").forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  document.addEventListener("click", ({ target }) => {
    const button = target.closest(".more");
    if (!button) return;
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    draw(button.parentElement.querySelector(".chart"));
  });
