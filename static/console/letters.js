/* The list of letters: "select all that match" says how many that are, counted exactly at that moment. */
(() => {
  "use strict";

  const number = new Intl.NumberFormat("en-US");

  async function countAll(actions) {
    const said = actions.querySelector("[data-counted]");
    const all = actions.querySelector("[data-all]");
    const total = actions.querySelector("[data-total]");
    said.textContent = "counting exactly…";
    try {
      const answer = await fetch(actions.dataset.countUrl, { headers: { Accept: "application/json" }, credentials: "same-origin" });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.detail);
      all.textContent = `All ${number.format(found.count)} that match selected.`;
      said.textContent = `counted exactly at ${found.at} UTC`;
      if (total) {
        total.dataset.total = number.format(found.count);
        total.textContent = total.dataset.selectedText.replace("{n} selected", `all ${number.format(found.count)}`);
      }
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
      const total = actions.querySelector("[data-total]");
      if (total) total.dataset.total = "";
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
