/* Scripts of the pages other than the live one; each is mounted by a gr.HTML of studio/pages. */
"use strict";

/** Tell Python when a page is entered: `entered` is an event of the gr.HTML that mounts it. */
Studio.onPage = (page, element, action) => {
  const listener = (event) => {
    if (!element.isConnected) { removeEventListener("studio:page", listener); return; }
    if (event.detail.page === page) action(event.detail);
  };
  addEventListener("studio:page", listener);
  if (document.documentElement.dataset.page === page) action({ page, run: Studio.run() });
};

Studio.mounts.rail = () => Studio.begin();

/* A group of radio cards: a change becomes the event `choose`. */
Studio.mounts.choices = (element, props, trigger) => {
  element.addEventListener("change", (event) => {
    if (event.target.matches("input[type=radio]")) trigger("choose", { id: event.target.value });
  });
};

/* A page that asks Python to bring it up to date when it is entered. */
Studio.mounts.enter = (element, props, trigger, watch, page) => {
  let last = 0;
  Studio.onPage(page, element, ({ run }) => {
    if (performance.now() - last < 250) return; // the frame and the page may both report one arrival
    last = performance.now();
    trigger("enter", { run });
  });
};

/* The plan: its grid travels as JSON in a data attribute of the markup. */
Studio.mounts.plan = (element, props, trigger, watch) => {
  const draw = async () => {
    const box = element.querySelector("[data-grid]");
    if (!box || document.documentElement.dataset.page !== "plan") return;
    const grid = JSON.parse(box.dataset.grid);
    for (const kind of ["bits", "ranks"]) {
      const node = element.querySelector(`.plot.${kind}`);
      Studio.heatLegend(element.querySelector(`.legend.${kind}`), kind, grid, grid[kind]);
      await Studio.heat(node, kind, grid, grid[kind]);
    }
  };
  watch("value", draw);
  addEventListener("studio:theme", draw);
  Studio.onPage("plan", element, draw);
  element.addEventListener("click", (event) => {
    const button = event.target.closest("[data-apply]");
    if (button) trigger("apply", { change: button.dataset.apply });
  });
  draw();
};

/* Suggested questions: a click puts one into the message box. */
Studio.mounts.ask = (element, props, trigger) => {
  element.addEventListener("click", (event) => {
    const button = event.target.closest("[data-ask]");
    if (button) trigger("ask", { text: button.dataset.ask });
  });
};

/* Cards with buttons: the id of the pressed one becomes the event `press`. */
Studio.mounts.press = (element, props, trigger) => {
  element.addEventListener("click", (event) => {
    const button = event.target.closest("[data-press]");
    if (button && !button.disabled) trigger("press", { id: button.dataset.press, run: Studio.run() });
  });
};
