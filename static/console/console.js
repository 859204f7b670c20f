/* What the console does beside htmx: copying, unfolding, menus, counting what is selected, and saying when figures are
   old. No page needs it to be read. */
(() => {
  "use strict";

  const closest = (event, selector) => (event.target instanceof Element ? event.target.closest(selector) : null);

  /* [data-copy] copies the text of the element that it names by a selector, else of the <pre> beside it. */
  async function copy(button) {
    const named = button.dataset.copy;
    const source = named ? document.querySelector(named) : button.parentElement.querySelector("pre, code, [data-copied]");
    if (!source) return;
    const said = button.dataset.label || (button.dataset.label = button.textContent);
    try {
      await navigator.clipboard.writeText("value" in source ? source.value : source.textContent);
      button.textContent = "Copied";
    } catch {
      // Not allowed, or no https: the text is selected, so that the keyboard can do it.
      const range = document.createRange();
      range.selectNodeContents(source);
      const selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      button.textContent = "Selected";
    }
    window.setTimeout(() => { button.textContent = said; }, 2000);
  }

  /* [data-reveals="id"] shows and hides the element with that id. */
  function reveal(button) {
    const target = document.getElementById(button.dataset.reveals);
    if (!target) return;
    target.hidden = !target.hidden;
    button.setAttribute("aria-expanded", String(!target.hidden));
  }

  document.addEventListener("click", (event) => {
    const copier = closest(event, "[data-copy]");
    if (copier) copy(copier);
    const revealer = closest(event, "[data-reveals]");
    if (revealer) reveal(revealer);
    for (const menu of document.querySelectorAll("details[data-menu][open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of document.querySelectorAll("details[data-menu][open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });

  /* [data-selected-text="Replay {n} selected"] follows the checked rows of the list; of everything that matches when
     "select all" was chosen and [data-total] is known. */
  function countSelected() {
    const texts = document.querySelectorAll("[data-selected-text]");
    if (!texts.length) return;
    const across = document.querySelector("input.select-across");
    const checked = document.querySelectorAll("#result_list input.action-select:checked").length;
    for (const text of texts) {
      const all = across && across.value === "1" ? text.dataset.total : "";
      text.textContent = text.dataset.selectedText.replace("{n}", all || String(checked));
      const button = text.closest("button");
      if (button && !("locked" in button.dataset)) button.disabled = checked === 0;
    }
  }
  document.addEventListener("change", (event) => { if (closest(event, "#changelist-form")) countSelected(); });
  document.addEventListener("click", (event) => {
    if (closest(event, "#changelist-form")) window.setTimeout(countSelected, 0);
  });

  /* --- live parts: [data-live="5"] is asked for every 5 s by htmx, not while nobody sees the page --- */

  const isLive = (element) => element instanceof Element && element.matches("[data-live]");
  let lastAnswer = Date.now();

  /* What a user has unfolded stays unfolded when its fragment is replaced. */
  let unfolded = [];
  document.addEventListener("htmx:beforeSwap", () => {
    unfolded = [...document.querySelectorAll("details[data-keep][open]")].map((details) => details.id);
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const id of unfolded) document.getElementById(id)?.setAttribute("open", "");
  });

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (isLive(event.detail.elt) && document.hidden) event.preventDefault();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    for (const element of document.querySelectorAll("[data-live]")) window.htmx.trigger(element, "wake");
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!isLive(event.detail.elt)) return;
    if (event.detail.successful) { lastAnswer = Date.now(); fresh(); } else { stale(event.detail.elt); }
  });

  function fresh() {
    document.body.classList.remove("is-stale");
    for (const status of document.querySelectorAll("[data-live-status].stale")) status.classList.remove("stale");
    for (const part of document.querySelectorAll("[data-live].stale-data")) part.classList.remove("stale-data");
  }

  function stale(part) {
    const seconds = Math.round((Date.now() - lastAnswer) / 1000);
    document.body.classList.add("is-stale");
    part.classList.add("stale-data");
    for (const status of document.querySelectorAll("[data-live-status]")) {
      status.classList.add("stale");
      const words = status.querySelector("[data-words]");
      if (words) words.textContent = `No answer for ${seconds} s: everything below is of ${status.dataset.asOf} UTC. Next try in ${part.dataset.live} s.`;
    }
  }

  /* --- Django's own pages, where their markup is not told to those who hear it, or does not fit a phone --- */

  function mend() {
    for (const input of document.querySelectorAll(".datetime input:not([aria-label])")) {
      const row = input.closest(".form-row");
      const label = row && row.querySelector("legend, label");
      const part = input.name.endsWith("_1") ? "time" : "date";
      input.setAttribute("aria-label", `${label ? label.textContent.trim().replace(/:$/, "") : "When"}, ${part}`);
    }
    const toggle = document.querySelector("#action-toggle:not([aria-label])");
    if (toggle) toggle.setAttribute("aria-label", "All on this page");
    for (const row of document.querySelectorAll("input.action-select:not([aria-label])")) {
      row.setAttribute("aria-label", `Select ${row.value}`);
    }
    for (const hint of document.querySelectorAll(".help-tooltip[aria-label]:not([role])")) hint.setAttribute("role", "img");
    /* On a phone a row is a card, and its cells say what they are. */
    if (!document.body.matches(".change-list") || document.body.matches(".own-cards, .model-deadletter")) return;
    const heads = [...document.querySelectorAll("#result_list thead th")].map((head) => {
      const text = head.querySelector(".text");
      return text ? text.textContent.trim() : "";
    });
    for (const row of document.querySelectorAll("#result_list tbody tr")) {
      [...row.children].forEach((cell, index) => {
        if (cell.matches("th, .action-checkbox") || cell.hasAttribute("data-label")) return;
        cell.setAttribute("data-label", heads[index] || "");
        cell.classList.add("lab");
        if (cell.textContent.trim() === "-") cell.classList.add("is-empty");
      });
    }
  }

  countSelected();
  mend();
  window.addEventListener("load", mend); // Django's pickers and selectors are made at this moment
})();
