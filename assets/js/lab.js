/* The page "Compare methods": rows to start, runs to tick, curves over one another, the table.
 *
 * What is compared stands in the address (#/lab/RUN+RUN), so that a refresh or a second tab shows
 * the same. Curves are polled from their cursors (studio/lab.py), and only while a run is under way;
 * the table is fetched when a run has changed its state.
 */
"use strict";

(() => {
  const { say, element: make } = Studio;
  const ACTIVE = ["running", "queued"];
  const REMEMBERED = "studio-lab";
  const FIRST = ["adaq", "qlora"]; // the rows that stand there at first
  const COLOURS = {
    light: ["#2450d6", "#0b7d70", "#a35b00", "#8a3ffc", "#b3261e", "#52607a"],
    dark: ["#86a8ff", "#5fd3c2", "#f0b775", "#c8a6ff", "#ff9d94", "#a8b3ca"],
  };
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"]; // not by colour alone
  const colour = (k) => COLOURS[Studio.isDark() ? "dark" : "light"][k % 6];
  const query = (ids) => ids.map((id) => `run=${encodeURIComponent(id)}`).join("&");

  class Lab {
    constructor(element) {
      this.element = element;
      this.options = null;
      this.rows = [];
      this.chosen = []; // ids of runs, in the order in which they were chosen
      this.reference = "";
      this.ticks = new Map();
      this.forget();
      this.busy = false;
      for (const name of ["add", "parts", "start"]) this.button(name).disabled = true; // until the choices are there
      element.addEventListener("click", (event) => this.press(event));
      this.field("seeds").addEventListener("change", () => this.showStart());
      this.field("reference").addEventListener("change", (event) => { this.reference = event.target.value; this.compared = ""; this.tick(); });
      Studio.onPage("lab", element, () => this.enter());
      addEventListener("studio:theme", () => { this.compared = ""; this.drawn = ""; this.tick(); });
      document.addEventListener("visibilitychange", () => this.tick());
      this.timer = setInterval(() => this.tick(), 1000);
    }
    field(name) { return this.element.querySelector(`[data-f="${name}"]`); }
    part(name) { return this.element.querySelector(`[data-part="${name}"]`); }
    button(name) { return this.element.querySelector(`[data-lab=${name}]`); }
    forget() { this.live = new Map(); this.found = null; this.compared = ""; this.drawn = ""; }

    /* Arriving ------------------------------------------------------------------- */
    async enter() {
      const named = Studio.place().run.split("+").filter(Boolean);
      if (named.length) this.choose(named);
      else if (!this.chosen.length) this.choose(this.remembered());
      else this.choose(this.chosen);
      try {
        const options = await Studio.getJson(`/api/lab/options?lang=${Studio.words.language}`);
        // Pages are "entered" again when a run begins or ends: what somebody is editing stays.
        const changed = JSON.stringify(options) !== JSON.stringify(this.options);
        this.options = options;
        if (changed) this.showOptions();
      } catch (error) { this.lost(error); return; }
      this.tick();
    }
    remembered() {
      try { return (localStorage.getItem(REMEMBERED) || "").split("+").filter(Boolean); } catch { return []; }
    }
    /** Take these runs, and say so in the address without leaving an entry in the history. */
    choose(ids) {
      const same = ids.length === this.chosen.length && ids.every((id, k) => id === this.chosen[k]);
      this.chosen = ids;
      if (!same) { this.compared = ""; this.drawn = ""; }
      for (const id of [...this.live.keys()]) if (!ids.includes(id)) this.live.delete(id);
      try { localStorage.setItem(REMEMBERED, ids.join("+")); } catch { /* private window */ }
      if (Studio.place().page === "lab") history.replaceState(null, "", `#/lab${ids.length ? `/${ids.join("+")}` : ""}`);
    }
    lost(error) { Studio.message(error.body && error.body.problems ? error.body.problems : [say("offline")]); }

    /* What to compare ------------------------------------------------------------ */
    showOptions() {
      const o = this.options, data = this.field("data"), before = data.value;
      data.replaceChildren(...o.data.map((d) => make("option", { value: d.id, textContent: d.name })));
      if (o.data.some((d) => d.id === before)) data.value = before;
      if (!this.rows.length) {
        this.field("budget").value = o.budget_mb;
        this.rows = FIRST.filter((id) => o.methods.some((m) => m.id === id)).map((id) => ({ method: id, setting: "", value: null }));
      }
      this.field("basis").textContent = o.basis;
      for (const name of ["parts", "start"]) this.button(name).disabled = false;
      this.showRows();
    }
    method(id) { return this.options.methods.find((m) => m.id === id) || this.options.methods[0]; }
    showRows() {
      this.field("rows").replaceChildren(...this.rows.map((row, k) => this.rowNode(row, k)));
      this.button("add").disabled = this.rows.length >= this.options.most;
      this.showStart();
    }
    rowNode(row, k) {
      const n = k + 1;
      const pick = (label, entries, value) => {
        const node = make("select", { ariaLabel: say(label, { n }) });
        node.append(...entries.map(([v, text]) => make("option", { value: v, textContent: text })));
        node.value = value;
        return node;
      };
      const method = pick("lab_method", this.options.methods.map((m) => [m.id, m.name]), row.method);
      const settings = this.method(row.method).settings;
      const setting = pick("lab_setting", [["", say("lab_plain")], ...settings.map((s) => [s.path, s.name])], row.setting);
      const values = (settings.find((s) => s.path === row.setting) || { values: [] }).values;
      const value = pick("lab_value", values.length ? values.map((v) => [JSON.stringify(v.value), v.name]) : [["", "–"]], row.setting ? JSON.stringify(row.value) : "");
      value.disabled = !values.length;
      const remove = make("button", { type: "button", className: "btn", textContent: "×", ariaLabel: say("lab_remove", { n }) });
      remove.dataset.lab = "remove";
      remove.dataset.row = String(k);
      remove.disabled = this.rows.length <= this.options.least;
      const change = (changes, which) => {
        Object.assign(row, changes);
        this.showRows();
        this.field("rows").children[k].querySelectorAll("select")[which].focus();
      };
      method.addEventListener("change", () => change({ method: method.value, setting: "", value: null }, 0));
      setting.addEventListener("change", () => {
        const offered = settings.find((s) => s.path === setting.value);
        change({ setting: setting.value, value: offered ? offered.values[0].value : null }, 1);
      });
      value.addEventListener("change", () => { row.value = JSON.parse(value.value); });
      return make("div", { className: "lab-row" }, method, setting, value, remove);
    }
    showStart() {
      if (!this.options) return;
      this.field("start").textContent = say("lab_start", { n: this.rows.length * Number(this.field("seeds").value) });
      const about = [...new Set(this.rows.map((r) => r.method))].map((id) => this.method(id));
      this.field("about").textContent = about.map((m) => m.problem || (m.about ? `${m.name}: ${m.about}` : "")).filter(Boolean).join("; ");
    }

    /* Buttons --------------------------------------------------------------------- */
    async press(event) {
      const button = event.target.closest("[data-lab]");
      if (!button || button.disabled) return;
      const { lab: what, row } = button.dataset;
      if (what === "add") this.add();
      else if (what === "remove") this.remove(Number(row));
      else if (what === "parts") this.parts();
      else if (what === "clear") { this.choose([]); this.showTicks(); this.tick(); }
      else if (what === "stop") await this.stop();
      else if (what === "start") {
        button.disabled = true;
        try { await this.start(); } finally { button.disabled = false; }
      }
    }
    add() {
      const used = this.rows.map((r) => r.method);
      const next = this.options.methods.find((m) => !used.includes(m.id)) || this.options.methods[0];
      this.rows.push({ method: next.id, setting: "", value: null });
      this.showRows();
      this.field("rows").lastElementChild.querySelector("select").focus();
    }
    remove(k) {
      this.rows.splice(k, 1);
      this.showRows();
      this.field("rows").children[Math.min(k, this.rows.length - 1)].querySelector("select").focus();
    }
    parts() {
      const method = this.method(this.rows[0].method);
      if (method.ablation.length < this.options.least) { Studio.message([method.problem || say("lab_no_parts")], "warn"); return; }
      Studio.message([]);
      this.rows = method.ablation.map((a) => ({ method: method.id, ...a }));
      this.showRows();
    }
    async start() {
      // One key a click: a repeated request (double click, retry after a lost answer) starts nothing twice.
      const key = crypto.randomUUID ? crypto.randomUUID() : String(performance.now());
      Studio.message([]);
      const reply = await Studio.postJson("/api/lab/runs", { key, choices: this.rows, data: this.field("data").value,
        budget_mb: Number(this.field("budget").value) || 0, seeds: Number(this.field("seeds").value) })
        .catch(() => ({ ok: false, problems: [say("offline")] }));
      if (!reply.ok) { Studio.message(reply.problems || [say("offline")]); return; }
      this.reference = "";
      this.choose(reply.runs);
      await Studio.refresh();
      this.field("said").textContent = say("lab_queued", { n: reply.runs.length });
      await this.tick();
      this.part("found").scrollIntoView({ block: "start" });
    }
    async stop() {
      for (const run of this.known().filter((r) => ACTIVE.includes(r.status)))
        await Studio.postJson(`/api/runs/${encodeURIComponent(run.id)}/want`, { want: "stop" }).catch(() => null);
      await Studio.refresh();
      this.tick();
    }

    /* Runs to tick ------------------------------------------------------------------ */
    known() { return Studio.runs().filter((r) => this.chosen.includes(r.id)); }
    showTicks() {
      const runs = Studio.runs(), box = this.field("ticks");
      this.field("no_runs").hidden = runs.length > 0;
      box.parentElement.hidden = !runs.length;
      this.element.querySelector('[data-lab="clear"]').hidden = !runs.length;
      for (const [id, node] of this.ticks) if (!runs.some((r) => r.id === id)) { node.remove(); this.ticks.delete(id); }
      runs.forEach((run, k) => {
        const node = this.ticks.get(run.id) || this.tickNode(run);
        const [input, dot, label, state] = node.children;
        input.checked = this.chosen.includes(run.id);
        dot.className = `dot ${run.status}`;
        if (label.textContent !== run.name) { label.textContent = run.name; label.title = run.name; }
        if (state.textContent !== run.label) state.textContent = run.label;
        if (box.children[k] !== node) box.insertBefore(node, box.children[k] || null);
      });
    }
    tickNode(run) {
      const input = make("input", { type: "checkbox", value: run.id });
      const node = make("label", {}, input, make("span", { ariaHidden: "true" }), make("span", { className: "label" }), make("span", { className: "state" }));
      input.addEventListener("change", () => {
        this.choose(input.checked ? [...this.chosen, run.id] : this.chosen.filter((id) => id !== run.id));
        this.tick();
      });
      this.ticks.set(run.id, node);
      return node;
    }

    /* Watching ---------------------------------------------------------------------- */
    async tick() {
      if (!this.element.isConnected) { clearInterval(this.timer); return; }
      if (document.hidden || document.documentElement.dataset.page !== "lab") return;
      this.showTicks();
      if (this.busy) { this.again = true; return; }
      this.busy = true;
      try {
        do { this.again = false; await this.catchUp(); } while (this.again);
        if (this.troubled) Studio.message([]);
        this.troubled = false;
      }
      catch (error) { await this.trouble(error); } finally { this.busy = false; }
    }
    /** A run that is gone is taken out of the choice; anything else is said. */
    async trouble(error) {
      if (error.status === 404) {
        await Studio.refresh();
        const there = Studio.runs().map((r) => r.id);
        if (!this.chosen.every((id) => there.includes(id))) { this.choose(this.chosen.filter((id) => there.includes(id))); return; }
      }
      if (!this.troubled) this.lost(error); // once, not every second
      this.troubled = true;
    }
    async catchUp() {
      const ids = [...this.chosen];
      this.part("none").hidden = ids.length > 0;
      this.part("found").hidden = !ids.length;
      if (!ids.length) return;
      const states = () => ids.map((id) => (this.live.get(id) || {}).status).join();
      if (ids.some((id) => this.unread(id))) await this.readCurves(ids);
      if (ids.join() !== this.chosen.join()) return; // ticked meanwhile: the next turn is about those
      const now = `${ids.join()}|${this.reference}|${states()}`;
      if (now !== this.compared) {
        const reference = this.reference ? `&reference=${encodeURIComponent(this.reference)}` : "";
        const address = `${query(ids)}${reference}&lang=${Studio.words.language}`;
        this.found = await Studio.getJson(`/api/lab/comparison?${address}`);
        this.compared = now;
        this.showTable(address);
      }
      this.showStates();
      await this.draw();
    }
    unread(id) {
      const seen = this.live.get(id), run = Studio.runs().find((r) => r.id === id);
      return !seen || ACTIVE.includes(seen.status) || (run && run.status !== seen.status);
    }
    async readCurves(ids) {
      const asked = ids.map((id) => `run=${encodeURIComponent(id)}:${(this.live.get(id) || { cursor: 0 }).cursor}`).join("&");
      const reply = await Studio.getJson(`/api/lab/curves?${asked}&lang=${Studio.words.language}`);
      for (const fresh of reply.runs) {
        if (!this.chosen.includes(fresh.id)) continue;
        const seen = this.live.get(fresh.id) || { losses: new Map() };
        for (const [step, nll] of fresh.tuned) { seen.losses.set(step, nll); this.drawn = ""; } // a resumed run repeats steps
        if (fresh.base && !seen.base) this.compared = ""; // the line of the base model can be drawn now
        this.live.set(fresh.id, { ...seen, ...fresh, base: fresh.base || seen.base, phase: fresh.phase || seen.phase || "" });
      }
    }

    /* Showing ------------------------------------------------------------------------ */
    /** Every chosen run with its row's place. */
    runs() { return this.found ? this.found.rows.flatMap((row, k) => row.runs.map((run) => ({ ...run, k, row }))) : []; }
    showStates() {
      const list = this.field("states"), shown = this.runs();
      if (list.dataset.mark !== `${this.compared}${Studio.isDark()}`) {
        list.dataset.mark = `${this.compared}${Studio.isDark()}`;
        list.replaceChildren(...shown.map((run) => {
          const node = make("li", {}, this.swatch(run.k), make("span", { className: "name", textContent: run.name, title: run.name }),
            make("span", { className: "state" }), make("div", { className: "bar" }, make("i")));
          if (run.problem) node.append(make("span", { className: "why", textContent: run.problem }));
          return node;
        }));
      }
      shown.forEach((run, k) => {
        const seen = this.live.get(run.id) || {}, node = list.children[k];
        const phase = seen.status === "running" && seen.phase ? say(`phase_${seen.phase}`) : seen.label || "";
        const at = seen.status === "running" && seen.phase === "train" && seen.steps ? say("step_of", { n: seen.step, of: seen.steps }) : "";
        node.querySelector(".state").textContent = [phase, at].filter(Boolean).join(", ");
        node.querySelector(".bar i").style.width = `${seen.status === "done" ? 100 : seen.steps ? (100 * seen.step) / seen.steps : 0}%`;
      });
      const done = shown.filter((run) => (this.live.get(run.id) || {}).status === "done").length;
      Studio.announce(say("lab_done", { n: done, of: shown.length }));
      this.element.querySelector("[data-lab=stop]").hidden = ![...this.live.values()].some((r) => ACTIVE.includes(r.status));
    }
    swatch(k) {
      const node = make("i", { className: "line", ariaHidden: "true" });
      node.style.background = colour(k);
      return node;
    }
    showTable(address) {
      const { measures, rows, notes, reference } = this.found;
      const head = make("tr", {}, ...[say("lab_row"), ...measures.map((m) => m.name)].map((text) => make("th", { scope: "col", textContent: text })));
      const body = rows.map((row, k) => {
        const done = [row.summary, row.budget_bytes ? say("lab_limit", { n: say("mb", { n: Math.round(row.budget_bytes / 1e6) }) }) : ""];
        const name = make("th", { scope: "row" }, this.swatch(k), make("b", { textContent: row.label }), make("small", { textContent: done.filter(Boolean).join(" · ") }));
        return make("tr", {}, name, ...measures.map((m) => this.cell(row.cells[m.id])));
      });
      this.field("table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
      this.field("notes").replaceChildren(...notes.map((text) => make("li", { textContent: text })));
      this.field("reference").replaceChildren(...rows.map((row) => make("option", { value: row.runs[0].id, textContent: row.label })));
      this.field("reference").value = rows[reference].runs[0].id;
      this.field("csv").href = `/api/lab/comparison.csv?${address}`;
      this.field("report").href = `/api/lab/report.html?${address}`;
      this.field("open").href = `/api/lab/report.html?${address}&view=1`;
    }
    cell(cell) {
      if (!cell) return make("td", { textContent: "–" });
      const lines = [make("b", { textContent: cell.text, className: cell.over_budget ? "over" : "" })];
      if (cell.over_budget) lines.push(make("small", { className: "worse", textContent: say("lab_over") }));
      for (const text of [cell.interval, cell.count]) if (text) lines.push(make("small", { textContent: text }));
      for (const text of [cell.difference_text, cell.verdict_text]) if (text) lines.push(make("small", { className: cell.verdict, textContent: text }));
      return make("td", {}, ...lines);
    }
    async draw() {
      const mark = `${this.compared}${Studio.isDark()}`;
      if (this.drawn === mark) return;
      this.drawn = mark;
      const node = this.element.querySelector(".plot"), Plotly = await Studio.plotly();
      const traces = this.runs().map((run) => {
        const points = [...((this.live.get(run.id) || {}).losses || [])].sort((a, b) => a[0] - b[0]);
        return { x: points.map((p) => p[0]), y: points.map((p) => p[1]), type: "scatter", mode: "lines+markers", name: run.row.label, marker: { size: 5, color: colour(run.k) },
          line: { color: colour(run.k), width: 2, dash: DASHES[run.k % 6] }, hovertemplate: `${run.row.label.replace(/</g, "&lt;")} · ${run.seed}: %{y:.3f}<extra></extra>` };
      }).filter((trace) => trace.x.length);
      if (!traces.length) {
        Plotly.purge(node);
        node.replaceChildren(make("div", { className: "plot-wait", textContent: say("lab_wait") }));
        this.field("legend").replaceChildren();
        return;
      }
      if (node.querySelector(".plot-wait")) node.replaceChildren();
      const base = this.found.base_nll, grey = Studio.isDark() ? "#8f9bb3" : "#8b97ad";
      const shapes = base === null ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: base, y1: base, line: { color: grey, width: 1.6, dash: "dot" } }];
      const layout = Studio.plotLayout({ shapes, xaxis: { title: { text: say("axis_step"), standoff: 6, font: { size: 12 } }, rangemode: "tozero" }, yaxis: { rangemode: "tozero" } });
      await Plotly.react(node, traces, layout, Studio.plotConfig);
      Studio.fit(node);
      const keys = this.found.rows.map((row, k) => make("span", {}, this.swatch(k), row.label));
      if (base !== null) {
        const swatch = this.swatch(0);
        swatch.style.background = grey;
        keys.push(make("span", {}, swatch, say("lab_base")));
      }
      this.field("legend").replaceChildren(...keys);
    }
  }

  Studio.mounts.lab = (element) => { window.studioLab = new Lab(element); };
})();
