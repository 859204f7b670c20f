/* The list of letters: "select all that match" says how many that are, counted exactly at that moment. */
(() => {
  "use strict";

  const number = new Intl.NumberFormat("en-US");
  let total = "";

  /* Buttons say what they would act on, and wait until something is selected. */
  function follow() {
    const actions = document.querySelector("div.actions[data-count-url]");
    if (!actions) return;
    const across = actions.querySelector("input.select-across");
    const checked = document.querySelectorAll("#result_list input.action-select:checked").length;
    actions.classList.toggle("idle", checked === 0);
    const text = actions.querySelector("[data-replay]");
    if (text) {
      const what = text.dataset.replay;
      const all = across.value === "1";
      text.textContent = !checked ? `${what}…` : all ? `${what} all ${total || "that match"}` : `${what} ${checked} selected`;
    }
    for (const button of actions.querySelectorAll("button[name=action]")) {
      button.disabled = checked === 0;
      button.setAttribute("aria-disabled", String(checked === 0));
      button.title = checked === 0 ? "Select letters first" : "";
    }
  }
  document.addEventListener("change", follow);
  document.addEventListener("click", () => window.setTimeout(follow, 0));
  window.addEventListener("pageshow", () => window.setTimeout(follow, 0));

  async function countAll(actions) {
    const said = actions.querySelector("[data-counted]");
    const all = actions.querySelector("[data-all]");
    said.textContent = "counting exactly…";
    try {
      const answer = await fetch(actions.dataset.countUrl, { headers: { Accept: "application/json" }, credentials: "same-origin" });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.detail);
      all.textContent = `All ${number.format(found.count)} that match selected.`;
      said.textContent = `counted exactly at ${found.at} UTC`;
      total = number.format(found.count);
      follow();
    } catch {
      // The next page counts again before anything is done.
      said.textContent = "could not be counted now; the next page counts again";
    }
  }

  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element)) return;
    const actions = event.target.closest("div.actions[data-count-url]");
    if (!actions) return;
    if (event.target.closest("span.question a")) countAll(actions);
    if (event.target.closest("span.clear a")) {
      total = "";
      actions.querySelector("[data-counted]").textContent = "";
    }
  });

  /* The store is away: ask again, while somebody looks. */
  const away = document.querySelector("[data-try-again]");
  if (away) {
    const again = () => (document.hidden ? window.setTimeout(again, 1000) : window.location.reload());
    window.setTimeout(again, Number(away.dataset.tryAgain) * 1000);
  }
})();
