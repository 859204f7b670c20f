/* A live part that names what it shows, [data-tag], is put in place only when something changed: one letter, groups. */
(() => {
  "use strict";

  const isState = (element) => element instanceof Element && element.matches("[data-live][data-tag]");

  document.addEventListener("htmx:configRequest", (event) => {
    const { elt, headers } = event.detail;
    if (isState(elt)) headers["If-None-Match"] = `"${elt.dataset.tag}"`;
  });

  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, elt } = event.detail;
    if (!isState(elt)) return;
    const tag = (xhr.getResponseHeader("ETag") || "").replace(/^W\//, "").replaceAll('"', "");
    // Without a tag it is no such part: a login page after the session ended, say.
    if (!tag || tag === elt.dataset.tag) event.detail.shouldSwap = false;
    if (!tag) event.detail.isError = true;
  });

  document.addEventListener("htmx:afterRequest", (event) => {
    const { xhr, elt, successful } = event.detail;
    if (!isState(elt) || !successful) return;
    const moment = new Date(xhr.getResponseHeader("Date") || Date.now());
    const clock = moment.toISOString().slice(11, 19);
    for (const status of document.querySelectorAll("[data-live-status]")) {
      status.dataset.asOf = clock;
      const words = status.querySelector("[data-words]");
      if (words) words.textContent = `Live, every ${elt.dataset.live} s · ${clock} UTC`;
    }
  });
})();
