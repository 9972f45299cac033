/* The live view of the page "Same question?": marks while it trains, and the four counts.
 *
 * It reads the same route as the live view of a run (studio/charts.py, live_delta), from its own
 * cursor, and only while the page is open.
 */
"use strict";

(() => {
  const { say, element: make } = Studio;
  const MARKS = ["accuracy", "f1", "mcc"];
  const tone = { running: "info", queued: "info", done: "good", failed: "bad", paused: "warn", stopped: "warn" };
  const can = { pause: ["running", "queued"], resume: ["paused", "stopped", "failed"], stop: ["running", "queued", "paused"] };
  const per = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);
  const part = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));

  class PairsLive {
    constructor(element) {
      this.element = element;
      this.run = null;
      this.busy = false;
      element.addEventListener("click", (event) => {
        const button = event.target.closest("[data-want]");
        if (button && !button.disabled) this.wish(button.dataset.want);
      });
      Studio.onPage("pairs", element, () => this.tick());
      addEventListener("studio:theme", () => { if (this.run) { this.forget(this.run); this.tick(); } });
      this.timer = setInterval(() => this.tick(), 1000);
    }
    field(name) { return this.element.querySelector(`[data-f="${name}"]`); }
    text(name, value) { const node = this.field(name); if (node.textContent !== value) node.textContent = value; }
    forget(run) {
      this.run = run;
      this.cursor = 0;
      this.state = { step: 0, total: 0, phase: "", looks: [], test: null, failed: null, notes: [] };
      this.drawn = -1;
    }
    async tick() {
      if (!this.element.isConnected) { clearInterval(this.timer); return; }
      if (this.busy || document.hidden || document.documentElement.dataset.page !== "pairs") return;
      const run = Studio.pairRun();
      this.element.querySelector("[data-part=run]").hidden = !run;
      if (!run) return;
      if (run !== this.run) this.forget(run);
      this.busy = true;
      try { await this.catchUp(run); } catch (error) { this.lost(error); } finally { this.busy = false; }
    }
    async catchUp(run) {
      const delta = await Studio.getJson(`/api/runs/${encodeURIComponent(run)}/live?since=${this.cursor}&lang=${Studio.words.language}`);
      if (run !== this.run) return;
      this.cursor = delta.cursor;
      const s = this.state, at = delta.columns.indexOf("step");
      for (const row of delta.steps) s.step = row[at];
      if (delta.total) s.total = delta.total;
      if (delta.phase) s.phase = delta.phase.phase;
      for (const said of delta.pairs) {
        if (said.slice === "test") s.test = said.marks;
        else if (!s.looks.length || s.looks[s.looks.length - 1].step < said.step) s.looks.push(said);
      }
      if (delta.failed) s.failed = delta.failed;
      for (const note of delta.notes) if (!s.notes.includes(note)) s.notes.push(note);
      this.show(delta.run);
      await this.draw();
    }
    lost(error) {
      const lines = error.body && error.body.problems ? error.body.problems : [say("offline")];
      this.field("notice").replaceChildren(...lines.map((t) => make("div", { className: "banner warn", textContent: t })));
    }
    show(info) {
      const s = this.state, last = s.looks[s.looks.length - 1], marks = s.test || (last && last.marks) || {};
      this.text("name", info.name);
      this.text("status", info.label);
      this.field("status").className = `chip ${tone[info.status] || ""}`;
      const phase = info.status === "running" && s.phase ? say(`phase_${s.phase}`) : "";
      this.text("phase", [phase, s.total ? say("step_of", { n: s.step, of: s.total }) : "", info.model].filter(Boolean).join("  ·  "));
      this.field("bar").style.width = `${info.status === "done" ? 100 : s.total ? (100 * s.step) / s.total : 0}%`;
      Studio.announce(`${info.name}: ${info.label}`);
      this.element.querySelectorAll("[data-want]").forEach((b) => { b.hidden = !can[b.dataset.want].includes(info.status); });
      this.text("accuracy", per(marks.accuracy));
      this.text("f1", part(marks.f1));
      this.text("mcc", part(marks.mcc));
      this.text("on", marks.examples ? say(s.test ? "pairs_on_test" : "pairs_on_calibration", { n: marks.examples }) : "");
      const counts = marks.confusion || {};
      for (const key of ["tp", "fn", "fp", "tn"]) this.text(key, key in counts ? String(counts[key]) : "–");
      const lines = info.status === "failed" && s.failed ? [s.failed.what, s.failed.action] : s.notes.slice(-1);
      const mark = `${info.status}${lines.join()}`;
      if (this.field("notice").dataset.mark === mark) return;
      this.field("notice").dataset.mark = mark;
      const banner = make("div", { className: `banner ${info.status === "failed" ? "bad" : "info"}` },
        make("div", {}, make("strong", { textContent: lines[0] || "" }), make("p", { textContent: lines[1] || "" })));
      this.field("notice").replaceChildren(...(lines.length ? [banner] : []));
      this.element.querySelectorAll("[data-to]").forEach((link) => { link.href = `#/${link.dataset.to}/${this.run}`; link.hidden = link.dataset.to === "share" && info.status !== "done"; });
    }
    async draw() {
      const looks = this.state.looks, node = this.element.querySelector(".plot");
      if (this.drawn === looks.length) return;
      this.drawn = looks.length;
      const Plotly = await Studio.plotly(), dark = Studio.isDark();
      const colours = dark ? ["#86a8ff", "#5fd3c2", "#f0b775"] : ["#2450d6", "#0b7d70", "#a35b00"];
      const traces = MARKS.map((name, k) => ({ x: looks.map((l) => l.step), y: looks.map((l) => l.marks[name]), type: "scatter", mode: "lines+markers",
        name: say(`pairs_${name}`), line: { color: colours[k], width: 2.2 }, hovertemplate: `${say(`pairs_${name}`)} %{y:.2f}<extra></extra>` }));
      const layout = Studio.plotLayout({ hovermode: "x unified", xaxis: { title: { text: say("axis_step"), standoff: 6, font: { size: 12 } }, rangemode: "tozero" }, yaxis: { range: [-0.05, 1.05] } });
      await Plotly.react(node, traces, layout, Studio.plotConfig);
      Studio.fit(node);
      this.field("legend").replaceChildren(...MARKS.map((name, k) => {
        const swatch = make("i", { className: "line" });
        swatch.style.background = colours[k];
        return make("span", {}, swatch, say(`pairs_${name}`));
      }));
    }
    async wish(name) {
      Studio.message([]);
      const want = { resume: "run" }[name] || name;
      const reply = await Studio.postJson(`/api/runs/${encodeURIComponent(this.run)}/want`, { want }).catch(() => ({ ok: false }));
      if (!reply.ok) Studio.message(reply.problems || [say("offline")]);
      await Studio.refresh();
      this.tick();
    }
  }

  Studio.mounts.pairs = (element) => { window.studioPairs = new PairsLive(element); };
})();
