/* The page "Concept map": made, drawn (draw.js) or listed, corrected, used, taken away.
 *
 * The server keeps the map and every correction (studio/concepts.py); this page asks how things stand,
 * fetches the map when its stamp has changed, and sends one correction at a time.
 */
"use strict";

(() => {
  const { say, element: make } = Studio;
  const API = "/api/concepts", ASK_MS = 1000, REST_MS = 8000; // while it works; while another tab might
  const KINDS = ["concept", "skill", "misconception"], RELATIONS = ["prerequisite", "part-of", "example-of"];
  const LEVELS = 5, FIRST = 6; // relations of a kind that are shown at once
  const kindName = (kind) => say(`con_kind_${kind}`);
  const per = (p) => `${Math.round(100 * p)} %`;
  const plain = (text) => text.normalize("NFKC").toLowerCase();
  const level = (share) => Math.max(0, Math.min(LEVELS - 1, Math.floor(share * LEVELS)));
  const address = (path, values = {}) => `${API}/${path}?${new URLSearchParams({ lang: Studio.words.language, ...values })}`;

  class Concepts {
    constructor(element) {
      this.element = element;
      this.state = null;
      this.map = null;
      this.places = {};
      this.chosen = "";
      this.focus = "";
      this.view = "map";
      this.mastery = new Map();
      this.run = null;
      this.asked = 0; // when the state was last asked for
      this.drawing = new Studio.ConceptDrawing(this.field("canvas"), {
        choose: (id) => this.choose(id), open: (id) => this.open(id), leave: () => this.leave(),
        enter: () => this.field("detail").focus(), search: () => this.field("search").focus(),
      });
      this.drawing.colour = (concept) => this.colourOf(concept);
      element.addEventListener("click", (event) => this.press(event));
      element.addEventListener("keydown", (event) => this.hotkey(event));
      this.on("file", "change", (node) => this.addTexts(node));
      this.on("search", "input", () => this.filter());
      this.on("search", "keydown", (node, event) => { if (event.key === "Enter") this.takeFirst(); });
      this.on("least", "input", () => this.filter());
      this.on("single", "change", () => this.filter());
      this.on("way", "change", () => this.arrange(true));
      this.on("colour", "change", () => this.recolour());
      this.on("run", "change", (node) => this.loadMastery(node.value));
      this.on("quiz_on", "change", () => this.quiz());
      this.on("quiz_weighted", "change", () => this.quiz());
      this.field("add_form").addEventListener("submit", (event) => { event.preventDefault(); this.add(); });
      Studio.onPage("concepts", element, () => this.ask());
      addEventListener("studio:theme", () => this.drawing.draw());
      this.timer = setInterval(() => this.tick(), ASK_MS);
    }
    field(name) { return this.element.querySelector(`[data-f="${name}"]`); }
    part(name) { return this.element.querySelector(`[data-part="${name}"]`); }
    button(name) { return this.element.querySelector(`button[data-con="${name}"]`); }
    on(name, what, action) {
      const node = name === "file" ? this.element.querySelector("#con-file") : this.field(name);
      node.addEventListener(what, (event) => action(node, event));
    }
    lost(error) { Studio.message(error.body && error.body.problems ? error.body.problems : [say("offline")]); }
    async post(path, body) {
      Studio.message([]);
      const reply = await Studio.postJson(`${API}/${path}`, body).catch(() => ({ ok: false, problems: [say("offline")] }));
      if (!reply.ok) Studio.message(reply.problems || [say("offline")]);
      return reply;
    }

    /* How things stand ------------------------------------------------------------ */
    tick() {
      if (!this.element.isConnected) { clearInterval(this.timer); return; }
      if (document.hidden || document.documentElement.dataset.page !== "concepts") return;
      const working = this.state && this.state.task && this.state.task.said;
      if (working || performance.now() - this.asked > REST_MS) this.ask();
    }
    async ask() {
      if (this.asking) return;
      this.asking = true;
      this.asked = performance.now();
      try { await this.take(await Studio.getJson(address("state"))); } catch (error) { this.lost(error); } finally { this.asking = false; }
    }
    async take(state) {
      const other = this.state && (this.state.class.name !== state.class.name);
      this.state = state;
      if (other) { this.chosen = ""; this.focus = ""; this.mastery.clear(); this.run = null; }
      this.showMaking();
      const there = state.map && state.map.stamp;
      this.part("none").hidden = !!there;
      this.part("map").hidden = !there;
      if (!there) { this.map = null; return; }
      this.showState();
      if (!this.map || this.map.stamp !== state.map.stamp) await this.load();
      await this.showRuns();
    }
    async load() {
      const first = !this.map;
      const map = await Studio.getJson(address("map"));
      this.map = map;
      this.byId = new Map(map.concepts.map((c) => [c.id, c]));
      this.mostGap = Math.max(1e-9, ...map.concepts.map((c) => c.gap));
      if (!this.byId.has(this.chosen)) this.chosen = "";
      if (!this.byId.has(this.focus)) this.focus = "";
      this.field("names").replaceChildren(...map.concepts.map((c) => make("option", { value: c.name })));
      await this.arrange(first);
      this.showGaps();
      this.showOrder();
      await this.showDetail();
    }
    /** Fetch places: of all concepts, or of those that lead to one. */
    async arrange(fit) {
      const values = { way: this.focus ? "order" : this.field("way").value };
      if (this.focus) values.focus = this.focus;
      this.places = (await Studio.getJson(address("layout", values))).places;
      this.filter();
      if (fit) this.drawing.fit();
      this.button("whole").hidden = !this.focus;
      this.field("focus_said").textContent = this.focus ? say("con_focus", { name: this.byId.get(this.focus).name }) : "";
    }

    /* Making ----------------------------------------------------------------------- */
    showMaking() {
      const s = this.state, task = s.task || {}, working = !!task.said, map = s.map && s.map.stamp ? s.map : null;
      this.field("basis").textContent = s.class.chosen ? say("con_class", { name: s.class.name }) : say("con_no_class");
      this.field("texts").replaceChildren(...s.material.map((m) => {
        const off = make("button", { type: "button", className: "btn small", textContent: "×", ariaLabel: say("con_remove_text", { name: m.name }) });
        off.dataset.text = m.id;
        return make("li", {}, make("span", { textContent: m.name }), off);
      }));
      const pairs = this.field("pairs"), before = pairs.value;
      const options = [["", say("con_pairs_none")], ...s.pairs.map((r) => [r.id, r.name])];
      const mark = JSON.stringify(options);
      if (pairs.dataset.mark !== mark) {
        pairs.replaceChildren(...options.map(([value, textContent]) => make("option", { value, textContent })));
        const wanted = map ? map.pairs : s.pairs.length ? s.pairs[0].id : "";
        pairs.value = pairs.dataset.mark && options.some((o) => o[0] === before) ? before : options.some((o) => o[0] === wanted) ? wanted : "";
        pairs.dataset.mark = mark;
      }
      const go = this.field("make");
      go.disabled = working || (!s.class.chosen && !s.material.length);
      go.textContent = say(!map ? "con_make" : map.fresh ? "con_again_learn" : "con_again");
      this.field("cancel").hidden = !working;
      this.part("work").hidden = !working;
      if (working) {
        this.field("at").textContent = task.said;
        this.field("bar").style.width = `${Math.round(100 * task.share)}%`;
        Studio.announce(task.said);
      }
      this.showSaid(task, map);
    }
    showSaid(task, map) {
      const lines = [];
      const tell = (tone, text) => lines.push(make("div", { className: `banner ${tone}`, textContent: text }));
      for (const text of task.problems || []) tell("bad", text);
      if (this.state.map && this.state.map.problem) tell("bad", this.state.map.problem);
      if (map && map.stale && !task.said) tell("warn", say("con_stale"));
      if (map && map.fresh && !task.said) tell("info", say("con_fresh", { n: map.fresh }));
      if (map && map.unapplied) tell("warn", say("con_unapplied", { n: map.unapplied }));
      const mark = lines.map((l) => l.className + l.textContent).join("|"), box = this.field("said");
      if (box.dataset.mark !== mark) { box.dataset.mark = mark; box.replaceChildren(...lines); }
    }
    showState() {
      const m = this.state.map;
      this.button("undo").disabled = !m.undo;
      this.button("redo").disabled = !m.redo;
      this.field("notes").replaceChildren(
        ...[say("con_counts", m.counts), ...m.notes].map((textContent) => make("li", { textContent })));
      const q = this.state.quiz, on = this.field("quiz_on"), weighted = this.field("quiz_weighted");
      on.disabled = weighted.disabled = !this.state.class.chosen;
      on.checked = !!q && !q.stale;
      weighted.checked = !!q && !!q.weighted;
      const said = !q ? say("con_quiz_off") : q.stale ? say("con_quiz_stale")
        : say("con_quiz_said", { train: q.train, quiz: q.quiz, n: q.held.length, names: q.held.slice(0, 6).join(say("con_comma")) })
          + (q.weighted ? ` ${say("con_quiz_repeated", { n: q.repeated })}` : "");
      this.field("quiz_said").textContent = said;
    }
    async addTexts(input) {
      for (const file of input.files) {
        const answer = await fetch(address("material", { name: file.name }), { method: "POST", body: file }).catch(() => null);
        if (!answer || !answer.ok) {
          const body = answer ? await answer.json().catch(() => ({})) : {};
          Studio.message(body.problems || [say("offline")]);
        }
      }
      input.value = "";
      this.ask();
    }

    /* Buttons ------------------------------------------------------------------------ */
    async press(event) {
      const button = event.target.closest("button");
      if (!button || button.disabled || !this.element.contains(button)) return;
      const { con, view, text, pick, edit } = button.dataset;
      if (view) this.look(view);
      else if (text) { await this.post("material/remove", { id: text }); this.ask(); }
      else if (pick) { this.choose(pick, true); }
      else if (edit) await this.edit(JSON.parse(edit));
      else if (con) await this.act(con);
    }
    async act(what) {
      if (what === "make") {
        const reply = await this.post("make", { pairs: this.field("pairs").value });
        if (reply.ok) await this.ask();
      } else if (what === "cancel") { await this.post("cancel", {}); await this.ask(); }
      else if (what === "add_text") this.element.querySelector("#con-file").click();
      else if (what === "undo" || what === "redo") await this.edit({ op: what });
      else if (what === "zoom_in") this.drawing.zoom(1.3);
      else if (what === "zoom_out") this.drawing.zoom(1 / 1.3);
      else if (what === "fit") this.drawing.fit();
      else if (what === "whole") await this.leave(true);
      else if (what === "focus") await this.open(this.chosen);
      else if (what === "svg" || what === "png") await this.picture(what);
    }
    hotkey(event) {
      const typing = event.target.matches("input, select, textarea");
      if (typing || !(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
      event.preventDefault();
      const way = event.shiftKey ? "redo" : "undo";
      if (!this.button(way).disabled) this.edit({ op: way });
    }
    look(view) {
      this.view = view;
      this.part("canvas").hidden = view !== "map";
      this.part("list").hidden = view !== "list";
      this.showViews();
      this.filter();
    }
    showViews() {
      this.element.querySelectorAll("[data-view]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.view === this.view)));
    }

    /* Filtering and colours ------------------------------------------------------------ */
    filter() {
      if (!this.map) return;
      this.showViews();
      const least = Number(this.field("least").value) / 100, wanted = plain(this.field("search").value.trim());
      this.field("least_said").textContent = per(least);
      const edges = this.map.relations.filter((e) => e.confidence >= least && (e.shown || this.focus || e.source === this.chosen || e.target === this.chosen));
      const tied = new Set(edges.flatMap((e) => [e.source, e.target]));
      const single = this.field("single").checked;
      const inside = (c) => (c.id in this.places) && (c.confidence >= least || c.id === this.chosen) && (!single || tied.has(c.id) || c.id === this.chosen);
      const found = (c) => [c.name, ...c.aliases].some((n) => plain(n).includes(wanted));
      this.seen = this.map.concepts.filter(inside);
      this.found = wanted ? this.seen.filter(found) : this.seen;
      if (this.view === "map") {
        this.drawing.chosen = this.chosen;
        this.drawing.lit = new Set(wanted ? this.found.map((c) => c.id) : []);
        this.drawing.show(this.seen, edges, this.places);
      } else this.showList();
      if (wanted) Studio.announce(say("con_found", { n: this.found.length }));
      this.showLegend();
    }
    takeFirst() {
      const exact = this.found.find((c) => plain(c.name) === plain(this.field("search").value.trim()));
      const first = exact || this.found[0];
      if (first) this.choose(first.id, true);
    }
    colourOf(c) {
      const by = this.field("colour").value;
      if (by === "kind") return `--con-${c.kind}`;
      if (by === "gap") return `--con-gap${level(c.gap / this.mostGap)}`;
      const m = this.mastery.get(c.id);
      if (!m) return "--con-unknown";
      if (by === "change") return `--con-${m.verdict}`;
      return `--con-know${level(m[by])}`;
    }
    recolour() { this.drawing.paint(); this.showLegend(); }
    showLegend() {
      const by = this.field("colour").value;
      const swatch = (colour, text) => {
        const i = make("i");
        i.style.background = `var(${colour})`;
        return make("span", {}, i, text);
      };
      const known = by === "kind" || by === "gap" || this.mastery.size > 0;
      const steps = (name) => Array.from({ length: LEVELS }, (_, k) => swatch(`--con-${name}${k}`, k === 0 ? say(`con_least_${name}`) : k === LEVELS - 1 ? say(`con_most_${name}`) : ""));
      const parts = by === "kind" ? KINDS.map((k) => swatch(`--con-${k}`, kindName(k)))
        : by === "gap" ? steps("gap") : !known ? [make("span", { textContent: say("con_no_marks") })]
        : by === "change" ? ["better", "same", "worse", "unknown"].map((v) => swatch(`--con-${v}`, say(`con_${v}`)))
        : [...steps("know"), swatch("--con-unknown", say("con_unknown"))];
      this.field("legend").replaceChildren(...parts);
    }

    /* Choosing ---------------------------------------------------------------------------- */
    async choose(id, show = false) {
      if (!this.map || (id && !this.byId.has(id))) return;
      this.chosen = id;
      if (id && !(id in this.places)) await this.leave(true);
      this.filter();
      if (id && this.view === "map") this.drawing.reveal(id);
      if (id && show && this.view === "map") this.field("canvas").scrollIntoView({ block: "nearest" });
      const c = this.byId.get(id);
      if (c) Studio.announce(say("con_chosen", { name: c.name, kind: kindName(c.kind), n: c.questions }));
      await this.showDetail();
    }
    /** Draw only what leads to a concept, and what it directly prepares for. */
    async open(id) {
      this.focus = id;
      this.chosen = id;
      if (this.view !== "map") this.look("map");
      await this.arrange(true);
      await this.showDetail();
    }
    async leave(fit = true) {
      if (!this.focus) { if (this.chosen && fit) await this.choose(""); return; }
      this.focus = "";
      await this.arrange(fit !== false);
    }

    /* Details and corrections ---------------------------------------------------------------- */
    async showDetail() {
      const box = this.field("detail"), c = this.byId && this.byId.get(this.chosen);
      this.part("unchosen").hidden = !!c;
      if (!c) { box.replaceChildren(); return; }
      const held = box.contains(document.activeElement) ? document.activeElement.dataset.keep || "none" : ""; // by what focus comes back
      let texts;
      try { texts = await Studio.getJson(address("one", { id: c.id })); } catch { texts = { sentences: [], evidence: [], more: 0 }; }
      if (this.chosen !== c.id) return;
      box.replaceChildren(this.headOf(c), this.relationsOf(c, texts.evidence), this.correct(c), this.sentences(texts));
      if (held) (box.querySelector(`[data-keep="${held}"]`) || box).focus();
    }
    headOf(c) {
      const state = c.state === "found" ? say("con_sure", { n: per(c.confidence) }) : say(`con_state_${c.state}`);
      const chips = make("div", { className: "chips" }, make("span", { className: "chip info", textContent: kindName(c.kind) }),
        make("span", { className: `chip ${c.state === "found" ? "" : "good"}`, textContent: state }));
      const facts = [say("con_asked", { n: c.questions }), say("con_explained", { n: c.explained })];
      const gap = this.map.gaps.find((g) => g.concept === c.id), m = this.mastery.get(c.id);
      if (c.aliases.length) facts.push(say("con_aliases", { names: c.aliases.join(say("con_comma")) }));
      if (m) facts.push(say("con_mastery", { base: per(m.base), tuned: per(m.tuned), n: m.questions }));
      const parts = [make("h2", { textContent: c.name }), chips, ...facts.map((textContent) => make("p", { textContent }))];
      if (gap) parts.push(make("p", { className: "con-said", textContent: gap.sentence }));
      return make("div", { className: "con-facts" }, ...parts);
    }
    pickNode(id) {
      const node = make("button", { type: "button", className: "con-link", textContent: this.byId.get(id).name });
      node.dataset.pick = id;
      return node;
    }
    relationsOf(c, evidence) {
      const groups = [["con_before", (e) => e.target === c.id && e.kind === "prerequisite"], ["con_after", (e) => e.source === c.id && e.kind === "prerequisite"],
        ["con_part_of", (e) => e.source === c.id && e.kind === "part-of"], ["con_parts", (e) => e.target === c.id && e.kind === "part-of"],
        ["con_example_of", (e) => e.source === c.id && e.kind === "example-of"], ["con_examples", (e) => e.target === c.id && e.kind === "example-of"]];
      const box = make("div", { className: "con-edges" });
      for (const [title, mine] of groups) {
        const edges = this.map.relations.filter(mine);
        if (!edges.length) continue;
        const rows = edges.map((e) => this.edgeNode(c, e, evidence));
        box.append(make("h3", { textContent: say(title) }), make("ul", {}, ...rows.slice(0, FIRST)));
        if (rows.length > FIRST)
          box.append(make("details", { className: "more" }, make("summary", { textContent: say("con_rest", { n: rows.length - FIRST }) }), make("ul", {}, ...rows.slice(FIRST))));
      }
      const focus = make("button", { type: "button", className: "btn small", textContent: say("con_show_before") });
      focus.dataset.con = "focus";
      focus.disabled = !this.map.relations.some((e) => e.target === c.id && e.kind === "prerequisite");
      box.append(focus);
      return box;
    }
    edgeNode(c, e, evidence) {
      const other = e.source === c.id ? e.target : e.source, name = this.byId.get(other).name;
      const said = evidence.find((v) => v.source === e.source && v.target === e.target && v.kind === e.kind);
      const sure = make("span", { className: "con-p", textContent: e.state === "found" ? per(e.confidence) : say(`con_state_${e.state}`) });
      const asked = { concept: e.source, other: e.target, text: e.kind };
      const buttons = [this.small("✓", say("con_right", { name }), { op: "confirm-relation", ...asked }, e.state !== "found"),
        this.small("×", say("con_wrong", { name }), { op: "remove-relation", ...asked })];
      const row = make("li", {}, this.pickNode(other), sure, ...buttons);
      if (said) row.append(make("small", { textContent: said.sentences.join(" / ") }));
      return row;
    }
    small(sign, label, edit, off = false) {
      const node = make("button", { type: "button", className: "con-small", textContent: sign, ariaLabel: label, title: label, disabled: off });
      node.dataset.edit = JSON.stringify(edit);
      return node;
    }
    /** The forms: name, kind, merge, relation; confirm and remove. */
    correct(c) {
      const form = (label, ...controls) => {
        const node = make("form", { className: "con-form" }, make("label", { textContent: label }), make("div", {}, ...controls));
        const id = `con-f-${Math.random().toString(36).slice(2)}`; // labels are tied by id
        node.querySelector("label").htmlFor = id;
        controls[0].id = id;
        return node;
      };
      const submit = (textContent) => make("button", { type: "submit", className: "btn small", textContent });
      const name = make("input", { type: "text", value: c.name, maxLength: 120, autocomplete: "off" });
      name.dataset.keep = "name";
      const rename = form(say("con_name"), name, submit(say("con_rename")));
      rename.onsubmit = (event) => { event.preventDefault(); this.edit({ op: "rename", concept: c.id, text: name.value }); };

      const kind = make("select", {}, ...KINDS.map((k) => make("option", { value: k, textContent: kindName(k) })));
      kind.value = c.kind;
      kind.dataset.keep = "kind";
      const kinds = form(say("con_kind"), kind);
      kind.onchange = () => this.edit({ op: "kind", concept: c.id, text: kind.value });

      const into = this.nameField("into");
      const merge = form(say("con_merge"), into, submit(say("con_merge_go")));
      merge.onsubmit = (event) => {
        event.preventDefault();
        const other = this.named(into.value);
        if (other) this.edit({ op: "merge", concept: c.id, other: other.id }, other.id);
      };

      const how = make("select", { ariaLabel: say("con_how") }, ...["from", "to"].flatMap((way) => RELATIONS.map((r) => make("option", { value: `${way} ${r}`, textContent: say(`con_${way}_${r.replace("-", "_")}`) }))));
      const whom = this.nameField("whom");
      whom.ariaLabel = say("con_whom");
      const relate = form(say("con_relate"), how, whom, submit(say("con_relate_go")));
      relate.onsubmit = (event) => {
        event.preventDefault();
        const other = this.named(whom.value), [way, relation] = how.value.split(" ");
        if (!other) return;
        const [source, target] = way === "from" ? [other.id, c.id] : [c.id, other.id];
        this.edit({ op: "add-relation", concept: source, other: target, text: relation });
      };
      const last = make("div", { className: "chips" });
      const yes = make("button", { type: "button", className: "btn small", textContent: say("con_confirm"), disabled: c.state !== "found" });
      yes.dataset.edit = JSON.stringify({ op: "confirm", concept: c.id });
      const no = make("button", { type: "button", className: "btn small danger", textContent: say("con_remove") });
      no.dataset.edit = JSON.stringify({ op: "remove", concept: c.id });
      last.append(yes, no);
      const more = make("details", { className: "more", open: this.opened }, make("summary", { textContent: say("con_correct") }), rename, kinds, merge, relate);
      more.ontoggle = () => { this.opened = more.open; };
      return make("div", { className: "con-correct" }, last, more);
    }
    nameField(keep) {
      const node = make("input", { type: "text", autocomplete: "off", maxLength: 120 });
      node.setAttribute("list", "con-names");
      node.dataset.keep = keep;
      return node;
    }
    named(text) {
      const key = plain(text.trim());
      const found = this.map.concepts.find((c) => plain(c.name) === key) || this.map.concepts.find((c) => c.aliases.some((a) => plain(a) === key));
      Studio.message(found ? [] : [say("con_no_such", { name: text.trim() })], "warn");
      return found;
    }
    sentences(texts) {
      const rows = texts.sentences.map((s) => {
        const line = make("p");
        let at = 0;
        for (const [a, b] of s.spans) {
          const from = Math.max(a, at);
          if (b <= at) continue;
          line.append(s.text.slice(at, from), make("mark", { textContent: s.text.slice(from, b) }));
          at = b;
        }
        line.append(s.text.slice(at));
        const where = [s.role, s.where, s.explains ? say("con_explains") : ""].filter(Boolean).join(" · ");
        return make("li", {}, line, make("small", { textContent: where }));
      });
      if (texts.more) rows.push(make("li", { textContent: say("con_more", { n: texts.more }) }));
      const list = rows.length ? make("ul", {}, ...rows) : make("p", { className: "quiet", textContent: say("con_nowhere") });
      return make("div", { className: "con-texts-of" }, make("h3", { textContent: say("con_sentences") }), list);
    }
    async edit(asked, choose = this.chosen) {
      const reply = await this.post("edit", asked);
      if (!reply.ok) return false;
      this.state.map = reply.map;
      this.chosen = choose;
      this.showMaking();
      this.showState();
      await this.load().catch((error) => this.lost(error));
      Studio.announce(say("con_saved"));
      return true;
    }
    async add() {
      const field = this.field("new"), text = field.value;
      const before = new Set(this.map.concepts.map((c) => c.id));
      if (!(await this.edit({ op: "add", text }))) return;
      field.value = "";
      const fresh = this.map.concepts.find((c) => !before.has(c.id));
      if (fresh) await this.choose(fresh.id, true);
    }

    /* List, gaps, order --------------------------------------------------------------------------- */
    showList() {
      const before = new Map();
      for (const e of this.map.relations)
        if (e.kind === "prerequisite" && e.shown) before.set(e.target, [...(before.get(e.target) || []), this.byId.get(e.source).name]);
      this.field("rows").replaceChildren(...this.found.map((c) => {
        const name = make("th", { scope: "row" }, this.pickNode(c.id));
        const sure = c.state === "found" ? per(c.confidence) : say(`con_state_${c.state}`);
        const cells = [kindName(c.kind), c.questions, c.explained, (before.get(c.id) || []).join(say("con_comma")) || "–", sure];
        const row = make("tr", {}, name, ...cells.map((textContent) => make("td", { textContent })));
        if (c.id === this.chosen) row.className = "chosen";
        return row;
      }));
    }
    showGaps() {
      const gaps = this.map.gaps;
      this.field("no_gaps").hidden = gaps.length > 0;
      this.field("gaps").replaceChildren(...gaps.map((g) => {
        const look = make("button", { type: "button", className: "con-link", textContent: say("con_look"), ariaLabel: say("con_look_at", { name: g.name }) });
        look.dataset.pick = g.concept;
        return make("li", {}, make("span", { textContent: g.sentence }), look);
      }));
    }
    showOrder() {
      const gap = new Set(this.map.gaps.map((g) => g.concept));
      this.field("order").replaceChildren(...this.map.order.map((id) => {
        const row = make("li", {}, this.pickNode(id));
        if (gap.has(id)) row.append(make("small", { textContent: say("con_gap_here") }));
        return row;
      }));
    }

    /* Mastery, quiz, pictures ------------------------------------------------------------------------ */
    async showRuns() {
      const runs = this.state.runs, node = this.field("run"), mark = JSON.stringify(runs);
      if (node.dataset.mark !== mark) {
        node.dataset.mark = mark;
        node.replaceChildren(...runs.map((r) => make("option", { value: r.id, textContent: r.name })));
        if (runs.some((r) => r.id === this.run)) node.value = this.run;
      }
      node.disabled = !runs.length;
      const wanted = runs.length ? node.value : "", key = `${wanted} ${this.map.stamp}`;
      if (this.masteryOf !== key) { this.masteryOf = key; await this.loadMastery(wanted); }
    }
    async loadMastery(run) {
      this.run = run;
      let rows = [];
      if (run) try { rows = (await Studio.getJson(address("mastery", { run }))).rows; } catch (error) { this.lost(error); }
      this.mastery = new Map(rows.map((m) => [m.concept, m]));
      this.part("mastery").hidden = !rows.length;
      this.field("mastery_said").hidden = rows.length > 0;
      this.field("mastery_said").textContent = run ? say("con_no_mastery") : say("con_no_runs");
      this.field("mastery").replaceChildren(...rows.map((m) => {
        const name = make("th", { scope: "row" }, this.byId.has(m.concept) ? this.pickNode(m.concept) : m.name);
        const verdict = make("td", { className: m.verdict, textContent: say(`con_${m.verdict}`) });
        return make("tr", {}, name, make("td", { textContent: m.questions }), this.known(m.base), this.known(m.tuned), verdict);
      }));
      this.recolour();
      if (this.chosen) await this.showDetail();
    }
    known(p) {
      const fill = make("i");
      fill.style.width = per(p).replace(" ", "");
      fill.style.background = `var(--con-know${level(p)})`;
      return make("td", {}, make("span", { className: "con-known" }, make("span", { className: "con-bar", ariaHidden: "true" }, fill), per(p)));
    }
    async quiz() {
      const on = this.field("quiz_on"), weighted = this.field("quiz_weighted");
      if (document.activeElement === weighted && weighted.checked) on.checked = true;
      on.disabled = weighted.disabled = true;
      const reply = await this.post("quiz", { on: on.checked, weighted: weighted.checked });
      on.disabled = weighted.disabled = false;
      if (reply.ok) this.state.quiz = reply.quiz;
      this.showState();
    }
    async picture(form) {
      if (this.view !== "map") this.look("map");
      const { text, wide, high } = this.drawing.picture();
      const file = new Blob([text], { type: "image/svg+xml" });
      if (form === "svg") { this.save(file, "map.svg"); return; }
      const image = new Image(), source = URL.createObjectURL(file);
      try {
        image.src = source;
        await image.decode();
        const grain = Math.min(2, 8000 / Math.max(wide, high)); // no browser draws on any area
        const canvas = make("canvas", { width: Math.round(wide * grain), height: Math.round(high * grain) });
        canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
        this.save(await new Promise((done) => canvas.toBlob(done, "image/png")), "map.png");
      } finally { URL.revokeObjectURL(source); }
    }
    save(file, name) {
      const link = make("a", { href: URL.createObjectURL(file), download: name });
      document.body.append(link);
      link.click();
      link.remove();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    }
  }

  Studio.mounts.concepts = (element) => { window.studioConcepts = new Concepts(element); };
})();
