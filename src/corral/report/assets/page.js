// Draws every chart of the page, in the page's own colours, and again when light and dark change places.
// What went wrong is written into the document: data-charts, data-state of each chart, data-error.
"use strict";
const root = document.documentElement;
const dark = window.matchMedia("(prefers-color-scheme: dark)");
// Colours that can be told apart by the colour-blind, and stand out from white and from black.
const palette = ["#3578c8", "#d9772b", "#8d949e", "#2e9e6b", "#9a5fb5", "#b8860b", "#c84f6a"];

function complain(words) {
  root.dataset.error = root.dataset.error ? root.dataset.error + " | " + words : words;
}

window.addEventListener("error", (event) => complain(event.message));
window.addEventListener("unhandledrejection", (event) => complain(String(event.reason)));
document.addEventListener("securitypolicyviolation", (event) => complain("refused: " + event.violatedDirective + " " + event.blockedURI));

function theme() {
  const style = getComputedStyle(root);
  const colour = (name) => style.getPropertyValue(name).trim();
  const [ink, soft, line] = [colour("--ink"), colour("--soft"), colour("--line")];
  const text = { labelColor: soft, titleColor: soft, labelFontSize: 11, titleFontSize: 12, titleFontWeight: 500 };
  return {
    background: "transparent",
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null },
    axis: { ...text, gridColor: line, domainColor: line, tickColor: line, labelOverlap: true },
    axisX: { grid: false, tickCount: 6 },
    axisY: { tickCount: 6 },
    legend: { ...text, orient: "top", direction: "horizontal", columns: window.innerWidth < 600 ? 1 : 5, labelLimit: 220, symbolType: "square" },
    range: { category: palette, heatmap: [line, palette[0]] },
    mark: { color: palette[0] },
    line: { strokeWidth: 2 },
    point: { size: 36 },
    style: {
      reference: { color: soft, stroke: soft, strokeDash: [5, 4], strokeWidth: 1.5 },
      "reference-text": { color: ink, fill: ink, fontSize: 11 },
    },
  };
}

async function draw(element) {
  const spec = JSON.parse(document.getElementById(element.dataset.spec).textContent);
  const options = {
    mode: "vega-lite", renderer: "svg", actions: false, config: theme(),
    // Interpreted, not compiled: the page forbids code made from strings.
    ast: true,
    tooltip: { theme: dark.matches ? "dark" : "light" },
  };
  try {
    await window.vegaEmbed(element, spec, options);
    element.dataset.state = "drawn";
  } catch (error) {
    element.dataset.state = "failed";
    element.textContent = "This chart could not be drawn: " + error.message;
    complain(element.id + ": " + error.message);
  }
}

async function drawAll() {
  const charts = [...document.querySelectorAll(".chart")];
  for (const chart of charts) await draw(chart);
  const drawn = charts.filter((chart) => chart.dataset.state === "drawn").length;
  root.dataset.charts = drawn + " of " + charts.length;
  root.dataset.width = root.scrollWidth + " in " + root.clientWidth;
}

dark.addEventListener("change", drawAll);
drawAll();
