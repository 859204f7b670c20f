/* How fast a batch goes while somebody looks: every renewal of the live part leaves a sample, and uPlot draws what came
   back a second between them. Nothing is kept, and the server counts nothing for it. */
(() => {
  "use strict";

  const MOST = 900;
  const samples = [];
  let plot = null;

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim() || "gray";
  const number = (value) => (value === null || value === undefined ? "—" : value >= 100 ? value.toFixed(0) : value.toFixed(1));
  const panel = () => document.getElementById("batch-speed");

  function sample() {
    const live = document.getElementById("batch-live");
    if (!live || !live.dataset.at) return;
    const found = { at: Number(live.dataset.at), succeeded: Number(live.dataset.succeeded), failed: Number(live.dataset.failed) };
    const last = samples[samples.length - 1];
    if (last && found.at <= last.at) return;
    samples.push(found);
    if (samples.length > MOST) samples.shift();
    draw();
  }

  /* Over the time of five samples, so that one that came late makes no peak. */
  function rates() {
    const data = [[], [], []];
    samples.forEach((now, place) => {
      const before = samples[Math.max(0, place - 5)];
      const seconds = (now.at - before.at) / 1000;
      data[0].push(now.at / 1000);
      data[1].push(seconds > 0 ? (now.succeeded - before.succeeded) / seconds : null);
      data[2].push(seconds > 0 ? (now.failed - before.failed) / seconds : null);
    });
    return data;
  }

  function draw() {
    if (samples.length < 3 || !panel() || typeof uPlot === "undefined") return;
    panel().hidden = false;
    const data = rates();
    const last = data[0].length - 1;
    panel().querySelector("[data-succeeded-now]").textContent = `${number(data[1][last])}/s`;
    panel().querySelector("[data-failed-now]").textContent = `${number(data[2][last])}/s`;
    if (plot) {
      plot.setData(data);
      return;
    }
    const place = panel().querySelector("[data-uplot]");
    const box = () => ({ width: Math.max(place.clientWidth, 60), height: place.clientHeight });
    const axis = { stroke: color("--body-quiet-color"), grid: { stroke: color("--hairline-color"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    plot = new uPlot({
      ...box(),
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false } },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      scales: { y: { range: (self, min, max) => [0, Math.max(max * 1.1, 1)] } },
      axes: [{ ...axis, values: (self, ticks) => ticks.map((tick) => new Date(tick * 1000).toISOString().slice(11, 19)), space: 90, size: 24 }, { ...axis, size: 36 }],
      series: [
        {},
        { stroke: color("--chart-done"), width: 2, dash: [6, 4], points: { show: false } },
        { stroke: color("--chart-fail"), width: 2, points: { show: false } },
      ],
    }, data, place);
    new ResizeObserver(() => plot.setSize(box())).observe(place);
  }

  function anew() {
    if (!plot) return;
    plot.destroy();
    plot = null;
    draw();
  }

  document.addEventListener("DOMContentLoaded", sample);
  document.addEventListener("htmx:afterSettle", sample);
  for (const button of document.querySelectorAll(".theme-toggle")) button.addEventListener("click", () => window.setTimeout(anew, 0));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", anew);
})();
