/* The live view of a run: asks for what is new since its cursor, and adds it.
 *
 * The server sends columns of numbers (studio/charts.py, live_delta). Charts are extended, never
 * rebuilt, so that a zoom survives; a hidden tab asks for nothing and catches up when it is shown.
 */
"use strict";

(() => {
  const { say, element: make } = Studio;
  const ENDED = ["done", "failed", "stopped", "paused"];
  const size = (n) => (n >= 1e9 ? say("gb", { n: (n / 1e9).toFixed(2) }) : say("mb", { n: Math.round(n / 1e6) }));
  function clock(seconds) {
    if (!isFinite(seconds) || seconds < 0) return "–";
    const s = Math.round(seconds), m = Math.floor(s / 60);
    return m >= 60 ? `${Math.floor(m / 60)}:${String(m % 60).padStart(2, "0")}:${String(s % 60).padStart(2, "0")}`
      : `${m}:${String(s % 60).padStart(2, "0")}`;
  }
  const rate = (lr) => (lr > 0 ? lr.toExponential(1).replace("e-", "e−") : "0");
  const CHANGES_SHOWN = 12; // the newest; the map shows all bits as they are now
  const SMOOTHING = 0.15; // share of the newest step in the bold curve

  class Live {
    constructor(element) {
      this.element = element;
      this.run = null;
      this.busy = false;
      element.addEventListener("click", (event) => {
        const button = event.target.closest("[data-want]");
        if (button && !button.disabled) this.wish(button.dataset.want);
      });
      Studio.onPage("train", element, () => this.tick());
      addEventListener("studio:theme", () => this.repaint());
      document.addEventListener("visibilitychange", () => this.tick());
      this.timer = setInterval(() => this.tick(), 1000);
    }
    field(name) { return this.element.querySelector(`[data-f="${name}"]`); }
    part(name) { return this.element.querySelector(`[data-part="${name}"]`); }
    text(name, value) { const node = this.field(name); if (node.textContent !== value) node.textContent = value; }

    forget(run) {
      this.run = run;
      this.cursor = 0;
      this.info = null;
      this.state = { steps: 0, total: 0, smooth: null, base: null, tuned: [], grid: null, ranks: {}, bits: {}, plan: null,
        memory: null, phase: null, last: null, verdict: null, sample: null, failed: null, notes: [], changes: [] };
      this.pending = { x: [], raw: [], smooth: [], qx: [], qy: [] };
      this.charted = false;
      this.part("maps").hidden = true;
      this.part("changes").hidden = true;
      this.field("sample").replaceChildren();
      this.field("notice").replaceChildren();
    }

    async tick() {
      if (!this.element.isConnected) { clearInterval(this.timer); return; }
      if (this.busy || document.hidden || document.documentElement.dataset.page !== "train") return;
      const run = Studio.run();
      this.part("none").hidden = !!run;
      this.part("run").hidden = !run;
      if (!run) return;
      if (run !== this.run) this.forget(run);
      this.busy = true;
      try { await this.catchUp(run); } catch (error) { this.lost(error); } finally { this.busy = false; }
    }
    async catchUp(run) {
      for (let more = true; more;) {
        const delta = await Studio.getJson(`/api/runs/${encodeURIComponent(run)}/live?since=${this.cursor}&lang=${Studio.words.language}`);
        if (run !== this.run) return;
        more = delta.cursor > this.cursor + 3000; // a long run comes in several answers
        this.cursor = delta.cursor;
        this.add(delta);
      }
      this.showFigures();
      await this.draw();
    }
    lost(error) {
      const lines = error.body && error.body.problems ? error.body.problems : [say("offline")];
      this.field("notice").replaceChildren(...lines.map((t) => make("div", { className: "banner warn", textContent: t })));
      this.noticeIsLost = true;
    }

    /* Fold what is new into the state ---------------------------------------- */
    add(delta) {
      const s = this.state, p = this.pending;
      if (this.noticeIsLost) { this.field("notice").replaceChildren(); this.noticeIsLost = false; }
      this.info = delta.run;
      const at = Object.fromEntries(delta.columns.map((name, i) => [name, i]));
      for (const row of delta.steps) {
        const loss = row[at.loss];
        s.smooth = s.smooth === null ? loss : s.smooth + SMOOTHING * (loss - s.smooth);
        p.x.push(row[at.step]); p.raw.push(loss); p.smooth.push(s.smooth);
        s.last = Object.fromEntries(delta.columns.map((name, i) => [name, row[i]]));
        s.steps = row[at.step];
      }
      if (delta.total) s.total = delta.total;
      for (const [step, nll] of delta.base) s.base = nll;
      for (const point of delta.tuned) { s.tuned.push(point); p.qx.push(point[0]); p.qy.push(point[1]); }
      if (delta.plan) { s.plan = delta.plan; s.grid = delta.plan.grid; s.ranks = {}; s.bits = {}; s.moved = true; }
      for (const kind of ["ranks", "bits"]) if (Object.keys(delta[kind]).length) { Object.assign(s[kind], delta[kind]); s.moved = true; }
      for (const name of ["memory", "phase", "verdict", "sample", "failed"]) if (delta[name]) s[name] = delta[name];
      if (delta.status && delta.status.status === "running") s.failed = null;
      s.changes.push(...delta.changes);
      for (const note of delta.notes) if (!s.notes.includes(note)) s.notes.push(note);
    }

    /* Show it ------------------------------------------------------------------ */
    showFigures() {
      const s = this.state, info = this.info, last = s.last;
      this.text("name", info.name);
      const tone = { running: "info", queued: "info", done: "good", failed: "bad", paused: "warn", stopped: "warn" }[info.status] || "";
      this.text("status", info.label);
      this.field("status").className = `chip ${tone}`;
      this.text("phase", this.phaseText());
      this.field("bar").style.width = `${100 * this.progress()}%`;
      Studio.announce(`${info.name}: ${info.label}`);
      const can = { start: ["done", "failed", "stopped"], pause: ["running", "queued"], resume: ["paused", "stopped", "failed"], stop: ["running", "queued", "paused"] };
      this.element.querySelectorAll("[data-want]").forEach((b) => {
        b.disabled = !can[b.dataset.want].includes(info.status);
        b.hidden = b.disabled && ["start", "resume"].includes(b.dataset.want);
      });
      this.text("loss", s.smooth === null ? "–" : s.smooth.toFixed(3));
      this.text("loss_note", last ? say("step_of", { n: s.steps, of: s.total }) : "");
      const quiz = s.tuned.length ? s.tuned[s.tuned.length - 1][1] : null;
      this.text("quiz", quiz === null ? "–" : quiz.toFixed(3));
      const best = s.tuned.reduce((a, b) => (a && a[1] <= b[1] ? a : b), null);
      this.text("quiz_note", best ? say("best_loss", { n: best[1].toFixed(3), step: best[0] }) : "");
      this.text("lr", last ? rate(last.lr) : "–");
      this.text("speed", last ? Math.round(last.tokens_per_second).toLocaleString("en-US") : "–");
      this.text("speed_note", last ? say("per_second") : "");
      this.text("left", ENDED.includes(info.status) ? "–" : last ? clock(last.seconds_left) : "–");
      this.showMemory();
      this.showVerdict();
      this.showSample();
      this.showChanges();
      this.showNotice();
    }
    showChanges() {
      const changes = this.state.changes, list = this.field("changes");
      this.part("changes").hidden = !changes.length;
      if (list.dataset.mark === `${this.run}${changes.length}`) return;
      list.dataset.mark = `${this.run}${changes.length}`;
      list.replaceChildren(...changes.slice(-CHANGES_SHOWN).reverse().map((text) => make("li", { textContent: text })));
    }
    progress() {
      const s = this.state;
      if (this.info.status === "done") return 1;
      if (s.phase && s.phase.phase !== "train") return Math.min(1, Math.max(0, s.phase.share || 0));
      return s.total ? s.steps / s.total : 0;
    }
    phaseText() {
      const s = this.state, model = [this.info.model, this.info.budget_bytes ? size(this.info.budget_bytes) : ""].filter(Boolean).join(" · ");
      const phase = ENDED.includes(this.info.status) ? "" : s.phase ? say(`phase_${s.phase.phase}`) : this.info.status === "queued" ? say("waiting") : say("phase_start");
      return [phase, model].filter(Boolean).join("  ·  ");
    }
    showMemory() {
      const s = this.state, last = s.last, budget = this.info.budget_bytes || (s.plan && s.plan.budget_bytes) || 0;
      const predicted = (s.memory && s.memory.predicted_bytes) || (s.plan && s.plan.predicted_peak_bytes) || 0;
      const now = last ? last.memory_bytes : 0, peak = Math.max(last ? last.peak_bytes : 0, s.memory ? s.memory.measured_bytes : 0);
      const end = Math.max(budget, peak, predicted) * (budget ? 1 : 1.15) || 1;
      const place = (n) => `${Math.min(100, 100 * n / end)}%`;
      this.text("memory", !now ? "–" : budget ? say("of_budget", { n: size(now), of: size(budget) }) : size(now));
      this.field("memory_bar").style.width = place(now);
      for (const [name, n] of [["peak", peak], ["predicted", predicted]]) {
        const mark = this.field(`${name}_mark`);
        mark.hidden = !n;
        mark.style.left = place(n);
        this.text(name, n ? say(name, { n: size(n) }) : "");
        this.field(name).parentElement.hidden = !n;
      }
      const label = [say("memory"), now ? size(now) : "", peak ? say("peak", { n: size(peak) }) : "", predicted ? say("predicted", { n: size(predicted) }) : "",
        budget ? say("budget", { n: size(budget) }) : ""].filter(Boolean).join(", ");
      this.field("gauge").setAttribute("aria-label", label);
    }
    showVerdict() {
      const v = this.state.verdict, name = v ? v.verdict : "too_early", node = this.field("verdict");
      if (node.dataset.verdict === `${name}${this.run}`) return;
      node.dataset.verdict = `${name}${this.run}`;
      node.className = `verdict ${name}`;
      node.replaceChildren(make("strong", { textContent: say(`verdict_${name}`) }), say(`verdict_${name}_text`));
    }
    showSample() {
      const s = this.state.sample, list = this.field("sample");
      const mark = s ? `${s.step}:${s.question}` : "none";
      if (list.dataset.mark === mark && list.childElementCount) return;
      list.dataset.mark = mark;
      const rows = s ? [["question", s.question], ["answer", s.answer || "–"], ["reference", s.reference]] : [["no_sample", ""]];
      list.replaceChildren(...rows.flatMap(([key, text]) => [make("dt", { textContent: say(key, { n: s ? s.step : 0 }) }), make("dd", { textContent: text })]));
    }
    showNotice() {
      const s = this.state, status = this.info.status, node = this.field("notice");
      const [tone, head, body] = status === "failed" && s.failed ? ["bad", s.failed.what, s.failed.action]
        : status === "done" ? ["good", say("done"), [...s.notes, say("done_text")].join(" ")]
        : status === "paused" ? ["warn", say("paused"), say("paused_text")]
        : status === "stopped" ? ["warn", say("stopped"), say("stopped_text")]
        : s.notes.length ? ["info", s.notes[s.notes.length - 1], ""] : ["", "", ""];
      const mark = `${this.run}${status}${head}${body}`;
      if (node.dataset.mark === mark) return;
      node.dataset.mark = mark;
      if (!head) { node.replaceChildren(); return; }
      const banner = make("div", { className: `banner ${tone}` }, make("div", {}, make("strong", { textContent: head }), make("p", { textContent: body })));
      const ways = status === "done" ? [this.info.task || "try", "share"] : status === "failed" && s.failed.code === "budget.too_small" ? ["plan"] : [];
      if (ways.length) {
        const actions = make("div", { className: "actions" });
        for (const page of ways) {
          const button = make("button", { type: "button", className: `btn${page === ways[0] ? " primary" : ""}`, textContent: say(`to_${page}`) });
          button.dataset.go = page;
          actions.append(button);
        }
        banner.append(actions);
      }
      node.replaceChildren(banner);
    }

    /* Charts ------------------------------------------------------------------- */
    colours() {
      const dark = Studio.isDark();
      return { raw: dark ? "rgba(134,168,255,.32)" : "rgba(36,80,214,.25)", train: dark ? "#86a8ff" : "#2450d6", quiz: dark ? "#5fd3c2" : "#0b7d70", base: dark ? "#8f9bb3" : "#8b97ad" };
    }
    async draw() {
      const Plotly = await Studio.plotly();
      const node = this.element.querySelector(".plot.loss"), c = this.colours(), s = this.state, p = this.pending;
      const drawn = this.charted || p.x.length || p.qx.length;
      if (!drawn && !node.querySelector(".plot-wait")) {
        Plotly.purge(node); // the run before this one
        node.replaceChildren(make("div", { className: "plot-wait", textContent: say("chart_waits") }));
      }
      if (drawn && !this.charted) {
        Plotly.purge(node);
        node.replaceChildren();
        const line = (name, colour, width, extra = {}) => ({ x: [], y: [], type: "scatter", mode: "lines", name, line: { color: colour, width, ...extra.line }, hovertemplate: `${name} %{y:.3f}<extra></extra>`, ...extra.trace });
        const traces = [line(say("legend_step"), c.raw, 1), line(say("legend_train"), c.train, 2.4),
          line(say("legend_quiz"), c.quiz, 2.2, { trace: { mode: "lines+markers", marker: { size: 7, color: c.quiz } } })];
        const layout = Studio.plotLayout({ hovermode: "x unified", xaxis: { title: { text: say("axis_step"), standoff: 6, font: { size: 12 } }, rangemode: "tozero" }, yaxis: { rangemode: "tozero" } });
        await Plotly.newPlot(node, traces, layout, Studio.plotConfig);
        Studio.fit(node);
        this.charted = true;
        this.baseDrawn = null;
        this.drawLegend([[c.train, "legend_train"], [c.quiz, "legend_quiz"]]);
      }
      if (p.x.length || p.qx.length) {
        const fresh = this.pending;
        this.pending = { x: [], raw: [], smooth: [], qx: [], qy: [] };
        await Plotly.extendTraces(node, { x: [fresh.x, fresh.x, fresh.qx], y: [fresh.raw, fresh.smooth, fresh.qy] }, [0, 1, 2]);
      }
      if (drawn && s.base !== null && s.base !== this.baseDrawn) {
        this.baseDrawn = s.base;
        this.drawLegend([[c.train, "legend_train"], [c.quiz, "legend_quiz"], [c.base, "legend_base"]]);
        await Plotly.relayout(node, { shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: s.base, y1: s.base, line: { color: c.base, width: 1.6, dash: "dot" } }] });
      }
      if (s.moved && s.grid) {
        s.moved = false;
        this.part("maps").hidden = false;
        for (const kind of ["ranks", "bits"]) {
          const now = s.grid.names.map((row, l) => row.map((name, m) => (name === null ? null : s[kind][name] ?? s.grid[kind][l][m])));
          const plot = this.element.querySelector(`.plot.heat.${kind}`);
          Studio.heatLegend(this.element.querySelector(`.legend.${kind}`), kind, s.grid, now);
          await Studio.heat(plot, kind, s.grid, now);
        }
      }
    }
    drawLegend(entries) {
      this.field("loss_legend").replaceChildren(...entries.map(([colour, key]) => {
        const swatch = make("i", { className: "line" });
        swatch.style.background = colour;
        return make("span", {}, swatch, say(key));
      }));
    }
    repaint() {
      // Other colours need the charts drawn anew: read the run again from its beginning.
      if (this.run) { this.forget(this.run); this.tick(); }
    }

    async wish(name) {
      Studio.message([]);
      if (name === "start") { await Studio.start(""); return; }
      const want = { resume: "run" }[name] || name;
      const reply = await Studio.postJson(`/api/runs/${encodeURIComponent(this.run)}/want`, { want }).catch(() => ({ ok: false }));
      if (!reply.ok) Studio.message(reply.problems || [say("offline")]);
      await Studio.refresh();
      this.tick();
    }
  }

  Studio.mounts.live = (element) => { window.studioLive = new Live(element); };
})();
