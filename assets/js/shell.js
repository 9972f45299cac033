/* The frame of the studio: language and theme before first paint, navigation by address, the rail.
 *
 * The address is the truth about where we are: #/plan, #/train/<run>. Refreshing, the back button and
 * a link sent to a colleague's tab therefore all work. No page text is written here: words come from
 * window.STUDIO_WORDS (studio/text.py).
 */
"use strict";

window.Studio = (() => {
  const PAGES = ["model", "data", "plan", "train", "try", "share", "concepts", "pairs", "lab"];
  const root = document.documentElement;
  const words = window.STUDIO_WORDS || {};
  const say = (key, values = {}) =>
    (words[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");

  // Gradio picks the words of its own parts by the browser's language; make it ours.
  const tag = root.lang || "en";
  Object.defineProperty(navigator, "language", { get: () => tag });
  Object.defineProperty(navigator, "languages", { get: () => [tag] });

  /* Theme: what was chosen, else what the system asks for ------------------ */
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => { try { return localStorage.getItem("studio-theme"); } catch { return null; } };
  const asked = new URLSearchParams(location.search).get("__theme");
  const wanted = () => stored() || (["light", "dark"].includes(asked) ? asked : null) || (systemDark.matches ? "dark" : "light");
  const isDark = () => wanted() === "dark";
  function applyTheme() {
    root.style.colorScheme = wanted();
    if (document.body && document.body.classList.contains("dark") !== isDark())
      document.body.classList.toggle("dark", isDark());
  }
  function setTheme(theme) {
    try { localStorage.setItem("studio-theme", theme); } catch { /* private window: for this page only */ }
    applyTheme();
    markTheme();
    dispatchEvent(new Event("studio:theme"));
  }
  function markTheme() {
    document.querySelectorAll("[data-theme-choice]").forEach((b) =>
      b.setAttribute("aria-pressed", String(b.dataset.themeChoice === wanted())));
  }

  /* Where we are ------------------------------------------------------------ */
  let overview = { runs: [], chosen: {} };
  const place = () => {
    const [page, run] = location.hash.replace(/^#\/?/, "").split("/");
    return { page: PAGES.includes(page) ? page : "model", run: run || "" };
  };
  const ACTIVE = ["running", "queued", "paused"];
  /** The run that the six steps speak of: the one in the address, else the active, else the last one. */
  function run() {
    const named = place().run;
    if (named && !["concepts", "pairs", "lab"].includes(place().page)) return named;
    const answering = overview.runs.filter((r) => !r.task);
    const active = answering.find((r) => ACTIVE.includes(r.status));
    return (active || answering[0] || { id: "" }).id;
  }
  /** The run whose model compares questions: the one in the address, else the newest. */
  function pairRun() {
    const mine = overview.runs.filter((r) => r.task === "pairs"), named = place().run;
    return (mine.find((r) => r.id === named) || mine[0] || { id: "" }).id;
  }
  function go(page, id = "") {
    const keep = id || (["train", "try", "share"].includes(page) ? run() : "");
    location.hash = `#/${page}${keep ? `/${keep}` : ""}`;
  }
  function show(focus) {
    const { page } = place();
    root.dataset.page = page;
    const title = document.querySelector(`#page-${page} h1`);
    if (title) {
      document.title = `${title.textContent} · ${say("brand")}`;
      if (focus) { title.tabIndex = -1; title.focus({ preventScroll: true }); window.scrollTo(0, 0); }
    }
    renderRail();
    dispatchEvent(new CustomEvent("studio:page", { detail: { page, run: run() } }));
  }

  /* The rail ------------------------------------------------------------------ */
  function element(name, properties = {}, ...children) {
    const node = Object.assign(document.createElement(name), properties);
    node.append(...children);
    return node;
  }
  function renderRail() {
    const { page } = place();
    const current = run();
    const here = overview.runs.find((r) => r.id === current);
    const done = {
      model: !!overview.chosen.model, data: !!overview.chosen.class,
      train: !!here && here.status === "done", try: false, share: false,
    };
    document.querySelectorAll(".steps a").forEach((link) => {
      const step = link.dataset.step;
      if (step === page) link.setAttribute("aria-current", "step");
      else link.removeAttribute("aria-current");
      link.classList.toggle("done", !!done[step] && step !== page);
      if (["train", "try", "share"].includes(step)) link.href = `#/${step}${current ? `/${current}` : ""}`;
      const note = { model: overview.chosen.model, data: overview.chosen.class, plan: overview.chosen.budget,
        train: here ? here.label : "" }[step];
      link.querySelector("small").textContent = note || link.dataset.hint;
    });
    const list = document.querySelector(".runs");
    if (!list) return;
    const rows = overview.runs.slice(0, 8).map((r) => {
      const link = element("a", { href: `#/${r.task || "train"}/${r.id}`, title: `${r.name} · ${r.label}` },
        element("span", { className: `dot ${r.status}`, ariaHidden: "true" }),
        element("span", { className: "label", textContent: r.name }),
        element("span", { className: "state", textContent: r.label }));
      if ((r.id === current && ["train", "try", "share"].includes(page)) || (page === "pairs" && r.id === pairRun())) link.setAttribute("aria-current", "page");
      return element("li", {}, link);
    });
    list.replaceChildren(...(rows.length ? rows : [element("li", { className: "none", textContent: say("no_runs") })]));
  }
  async function refresh() {
    const before = run(), beforePairs = pairRun();
    try { overview = await getJson(`/api/overview?lang=${words.language}`); } catch { return; }
    if (run() !== before || pairRun() !== beforePairs) show(false); else renderRail();
  }

  /* Talking to the studio -------------------------------------------------------- */
  async function getJson(address) {
    const answer = await fetch(address, { cache: "no-store" });
    const body = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(String(answer.status)), { status: answer.status, body });
    return body;
  }
  async function postJson(address, body) {
    const answer = await fetch(`${address}?lang=${words.language}`, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
    const reply = await answer.json().catch(() => ({}));
    return { ok: answer.ok, ...reply };
  }
  function announce(text) {
    const node = document.getElementById("announcer");
    if (node && node.textContent !== text) node.textContent = text;
  }
  /** Show sentences in the message line of the page (or take them away). */
  function message(lines, tone = "bad") {
    const line = document.getElementById("message");
    if (!line) return;
    line.replaceChildren(...lines.map((text) => element("div", { className: `banner ${tone}`, textContent: text })));
    if (lines.length) window.scrollTo({ top: 0 });
  }
  async function start(sample, task = "") {
    // One key a click: a repeated request (double click, retry after a lost answer) starts nothing twice.
    const key = crypto.randomUUID ? crypto.randomUUID() : String(performance.now());
    message([]);
    const reply = await postJson("/api/runs", { sample, task, key }).catch(() => ({ ok: false, problems: [say("offline")] }));
    if (!reply.ok) { message(reply.problems || [say("offline")]); return; }
    await refresh();
    go(task || "train", reply.run);
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-start], [data-go], [data-theme-choice], [data-language]");
    if (!button) return;
    const { start: sample, task, go: page, themeChoice, language } = button.dataset;
    if (themeChoice) setTheme(themeChoice);
    else if (language) {
      event.preventDefault();
      document.cookie = `lang=${language};path=/;max-age=31536000;SameSite=Lax`;
      location.assign(`/${language}/${location.search}${location.hash}`);
    } else if (page) { event.preventDefault(); go(page); }
    else if (sample !== undefined && !button.disabled) {
      button.disabled = true;
      try { await start(sample, task); } finally { button.disabled = false; }
    }
  });
  addEventListener("hashchange", () => { message([]); show(true); });
  systemDark.addEventListener("change", applyTheme);
  document.addEventListener("DOMContentLoaded", () => {
    applyTheme();
    new MutationObserver(applyTheme).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  });

  /** Called once by the rail when Gradio has drawn it. */
  async function begin() {
    markTheme();
    applyTheme();
    await refresh();
    const active = overview.runs.find((r) => ACTIVE.includes(r.status));
    if (!location.hash && active) go(active.task || "train", active.id);
    show(false);
    setInterval(() => { if (!document.hidden) refresh(); }, 3000);
    addEventListener("focus", refresh);
  }

  return { begin, go, run, pairRun, place, say, words, element, getJson, postJson, announce, message, refresh, isDark, start, runs: () => overview.runs, mounts: {},
    /** Entry of every gr.HTML with a script: `Studio.mount("live", element, props, trigger, watch)`. */
    mount(name, ...rest) { this.mounts[name](...rest); } };
})();
