/* The overview: says which version of the figures it has, so that an unchanged one is not sent again, and draws the
   charts with uPlot over the ones that came with the page. Without this script the page is complete, and older. */
(() => {
  "use strict";

  const live = () => document.getElementById("live");

  document.addEventListener("htmx:configRequest", (event) => {
    if (event.detail.elt !== live() || !live().dataset.etag) return;
    event.detail.headers["If-None-Match"] = `"${live().dataset.etag}"`;
  });

  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.requestConfig.elt !== live() || event.detail.xhr.status !== 304) return;
    event.detail.shouldSwap = false;
    event.detail.isError = false;
    said(event.detail.xhr.getResponseHeader("X-As-Of"));
  });

  /* Nothing has changed: only the time of having looked has. */
  function said(time) {
    const status = document.getElementById("live-status");
    if (!status || !time) return;
    status.dataset.asOf = time;
    status.querySelector("[data-words]").textContent = `Live, every ${live().dataset.live} s · ${time} UTC`;
  }

  /* --- charts --- */

  const CURVES = {
    throughput: [["accepted", "in", "--chart-in", []], ["done", "done", "--chart-done", [6, 4]], ["failed", "fail", "--chart-fail", []]],
    day: [["died", "fail", "--chart-fail", []], ["replayed", "done", "--chart-done", [6, 4]]],
    letters: [["died", "fail", "--chart-fail", []], ["replayed", "done", "--chart-done", [6, 4]]],
  };
  const WORDS = { died: "new", replayed: "replayed", accepted: "accepted", done: "done", failed: "failed" };
  let drawn = [];

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim() || "gray";
  const number = (value) => (value === null || value === undefined ? "—" : value >= 100 ? value.toFixed(0) : value.toFixed(1));
  const clock = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 19);

  function forget() {
    for (const { plot, watch } of drawn) { watch.disconnect(); plot.destroy(); }
    drawn = [];
  }

  function draw() {
    forget();
    const text = document.getElementById("overview-figures");
    if (!text || typeof uPlot === "undefined") return;
    const figures = JSON.parse(text.textContent);
    for (const place of document.querySelectorAll("#live [data-uplot]")) {
      const data = figures[place.dataset.uplot];
      const curves = CURVES[place.dataset.uplot];
      if (data && curves) drawOne(place, data, curves);
    }
  }

  function drawOne(place, data, curves) {
    const svg = place.querySelector("svg");
    const box = () => ({ width: Math.max(svg.clientWidth, 60), height: svg.clientHeight });
    const top = Number(place.dataset.top);
    const holder = document.createElement("div");
    holder.className = "uplot-holder";
    holder.setAttribute("aria-hidden", "true");
    place.append(holder);
    const said = document.createElement("output");
    said.className = "chart-said";
    said.setAttribute("aria-hidden", "true");
    place.append(said);
    const plot = new uPlot({
      ...box(),
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      padding: [0, 0, 0, 0],
      scales: { x: { time: true }, y: { range: [-0.012 * top, top] } },
      axes: [{ show: false }, { show: false }],
      series: [{}, ...curves.map(([, , tone, dash], place) => ({
        stroke: color(tone), width: 2, dash, points: { show: false }, spanGaps: false,
        fill: place ? undefined : color(tone) + (place === 0 && tone === "--chart-fail" ? "29" : "1a"),
      }))],
      hooks: {
        setCursor: [(self) => {
          const at = self.cursor.idx;
          said.textContent = at === null || at === undefined ? "" :
            `${clock(data.times[at])}  ${curves.map(([name]) => `${WORDS[name]} ${number(data[name][at])}`).join(" · ")}`;
        }],
      },
    }, [data.times, ...curves.map(([name]) => data[name])], holder);
    /* The drawing that came with the page stays for those who hear it, and for its size. */
    place.classList.add("is-drawn");
    const watch = new ResizeObserver(() => plot.setSize(box()));
    watch.observe(svg);
    drawn.push({ plot, watch });
  }

  document.addEventListener("DOMContentLoaded", draw);
  document.addEventListener("htmx:afterSwap", (event) => { if (event.detail.target && event.detail.target.id === "live") draw(); });
  for (const button of document.querySelectorAll(".theme-toggle")) button.addEventListener("click", () => window.setTimeout(draw, 0));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
