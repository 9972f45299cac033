/* Draws a concept map: nodes and arrows in SVG that can be moved, zoomed and walked with the keyboard.
 *
 * Places come from the server (core/graph/layout.py). Names keep their size at every zoom; where they
 * would cover one another, the less asked-for ones wait until there is room. All colours are custom
 * properties of the style sheet, so that the look can change, and a picture can be taken away.
 */
"use strict";

(() => {
  const NS = "http://www.w3.org/2000/svg";
  const svg = (name, attributes = {}) => {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };
  const WIDEST = 24; // characters of a name on the drawing; all of it stands in the details
  const WIDE = /[\u2e80-\u9fff\uac00-\ud7af\uff00-\uffef]/;
  const NEAREST = 2.4, FARTHEST = 0.06; // zoom
  const NAME = 100; // pixels that most names need
  const short = (name) => {
    const letters = Array.from(name), most = WIDE.test(name) ? WIDEST / 2 : WIDEST;
    return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : name;
  };
  const widthOf = (text) => Array.from(text).reduce((n, c) => n + (WIDE.test(c) ? 12.5 : 6.7), 0);
  const DASHES = { prerequisite: "", "part-of": "7 4", "example-of": "2 4" }; // not by colour alone

  /** The outline of a node of radius r: a circle, a square for skills, a diamond for misconceptions. */
  function outline(kind, r) {
    if (kind === "skill") return `M${-r},${-r}H${r}V${r}H${-r}Z`;
    if (kind === "misconception") return `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0Z`;
    return `M${-r},0A${r},${r} 0 1 1 ${r},0A${r},${r} 0 1 1 ${-r},0Z`;
  }
  /** An arrow between two places of the screen, ending before the second. */
  function arrow(a, b, gap) {
    const dx = b.x - a.x, dy = b.y - a.y, bend = Math.min(60, Math.abs(dx) / 2);
    if (Math.abs(dx) > Math.abs(dy) / 3) { // mostly sideways: leave and arrive level
      const s = Math.sign(dx) || 1;
      const end = b.x - s * gap;
      return `M${a.x},${a.y}C${a.x + s * bend},${a.y} ${end - s * bend},${b.y} ${end},${b.y}`;
    }
    const long = Math.hypot(dx, dy) || 1;
    return `M${a.x},${a.y}L${b.x - (dx / long) * gap},${b.y - (dy / long) * gap}`;
  }

  class Drawing {
    /** `on` hears: choose(id), open(id), leave(), search(). */
    constructor(box, on) {
      this.box = box;
      this.on = on;
      this.nodes = new Map(); // id -> {concept, x, y (units), mark, shape, label, r}
      this.edges = [];
      this.view = { x: 0, y: 0, k: 1 };
      this.tall = 1; // how much more it is spread downwards, to use the height there is
      this.chosen = "";
      this.lit = new Set(); // found by the search
      this.colour = () => "--con-concept";
      this.svg = svg("svg", { "aria-hidden": "true", focusable: "false" });
      const head = svg("marker", { id: "con-arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse", markerUnits: "userSpaceOnUse" });
      head.append(svg("path", { d: "M0,0L8,4L0,8Z", class: "con-head-of" }));
      const defs = svg("defs");
      defs.append(head);
      this.lines = svg("g");
      this.dots = svg("g");
      this.names = svg("g"); // above all dots
      this.svg.append(defs, this.lines, this.dots, this.names);
      box.replaceChildren(this.svg);
      this.listen();
      this.seen = new ResizeObserver(() => { if (box.offsetWidth) { if (this.unseen) this.fit(); else this.draw(); } });
      this.seen.observe(box);
      this.unseen = true;
    }

    /* What is drawn ------------------------------------------------------------ */
    /** Concepts and relations to draw, and the places of all; what stays glides to its new place. */
    show(concepts, relations, places) {
      const before = new Map([...this.nodes].map(([id, n]) => [id, { x: n.x, y: n.y }]));
      this.nodes.clear();
      for (const c of concepts) {
        const [x, y] = places[c.id] || [0, 0], r = Math.min(13, 4.5 + 1.8 * Math.sqrt(c.questions));
        const mark = svg("g", { "data-id": c.id, class: "con-node" });
        const shape = svg("path", { d: outline(c.kind, r) });
        const label = svg("text", { "data-id": c.id, class: "con-name" }), title = svg("title");
        label.textContent = short(c.name);
        title.textContent = c.name;
        mark.append(title, shape);
        this.nodes.set(c.id, { concept: c, x, y, mark, shape, label, r, full: r, width: widthOf(short(c.name)) });
      }
      this.edges = relations.filter((e) => this.nodes.has(e.source) && this.nodes.has(e.target)).map((relation) => ({
        relation, line: svg("path", { class: "con-edge", "stroke-dasharray": DASHES[relation.kind], "marker-end": "url(#con-arrow)" }) }));
      this.lines.replaceChildren(...this.edges.map((e) => e.line));
      this.dots.replaceChildren(...[...this.nodes.values()].map((n) => n.mark));
      this.names.replaceChildren(...[...this.nodes.values()].map((n) => n.label));
      this.paint();
      this.glide(before);
    }
    glide(before) {
      cancelAnimationFrame(this.gliding);
      const moved = [...this.nodes].filter(([id, n]) => before.has(id) && (before.get(id).x !== n.x || before.get(id).y !== n.y));
      if (!moved.length || matchMedia("(prefers-reduced-motion: reduce)").matches) { this.draw(); return; }
      const ends = moved.map(([id, n]) => ({ n, from: before.get(id), to: { x: n.x, y: n.y } })), begun = performance.now();
      const step = (now) => {
        const t = Math.min(1, (now - begun) / 280), s = t * t * (3 - 2 * t);
        for (const { n, from, to } of ends) { n.x = from.x + s * (to.x - from.x); n.y = from.y + s * (to.y - from.y); }
        this.draw();
        if (t < 1) this.gliding = requestAnimationFrame(step);
      };
      step(begun);
    }
    /** Colours and what is chosen; no places. */
    paint() {
      const near = new Set([this.chosen]);
      for (const { relation: e } of this.edges) {
        if (e.source === this.chosen) near.add(e.target);
        if (e.target === this.chosen) near.add(e.source);
      }
      const some = this.chosen && this.nodes.has(this.chosen);
      for (const [id, n] of this.nodes) {
        n.shape.style.fill = `var(${this.colour(n.concept)})`;
        const dim = this.lit.size ? !this.lit.has(id) && id !== this.chosen : !!some && !near.has(id);
        for (const node of [n.mark, n.label]) {
          node.classList.toggle("chosen", id === this.chosen);
          node.classList.toggle("lit", this.lit.has(id));
          node.classList.toggle("dim", dim);
        }
        n.mark.classList.toggle("sure", n.concept.state !== "found");
        n.near = near.has(id) && !!some;
      }
      for (const { relation: e, line } of this.edges) {
        const own = some && (e.source === this.chosen || e.target === this.chosen);
        line.classList.toggle("own", !!own);
        line.classList.toggle("dim", !!some && !own);
        line.style.strokeWidth = String(0.8 + 1.4 * e.confidence);
        const many = own ? 14 / near.size : some ? 0 : 70 / this.edges.length; // many lines are quiet lines
        line.style.opacity = own || !some ? String(Math.max(0.3, Math.min(own ? 1 : 0.9, many))) : "";
      }
    }
    at(n) { return { x: this.view.x + n.x * this.view.k, y: this.view.y + n.y * this.view.k * this.tall }; }
    draw() {
      const places = new Map(), small = Math.max(0.45, Math.min(1, 0.3 + this.view.k)); // from afar
      for (const [id, n] of this.nodes) {
        const p = this.at(n);
        places.set(id, p);
        n.r = n.full * small;
        n.mark.setAttribute("transform", `translate(${p.x.toFixed(1)},${p.y.toFixed(1)})`);
        n.shape.setAttribute("transform", `scale(${small})`);
        n.label.setAttribute("x", (p.x + n.r + 5).toFixed(1));
        n.label.setAttribute("y", (p.y + 4).toFixed(1));
      }
      for (const { relation: e, line } of this.edges)
        line.setAttribute("d", arrow(places.get(e.source), places.get(e.target), this.nodes.get(e.target).r + 3));
      this.name(places);
    }
    /** Show the names that have room: the chosen and found ones first, then by questions. */
    name(places) {
      const wide = this.box.clientWidth, high = this.box.clientHeight, taken = [];
      const weight = (id, n) => (id === this.chosen ? 1e6 : 0) + (this.lit.has(id) ? 1e5 : 0) + (n.near ? 1e4 : 0) + n.concept.questions + n.concept.confidence;
      for (const [id, n] of [...this.nodes].sort((a, b) => weight(...b) - weight(...a))) {
        const p = places.get(id), box = [p.x + n.r + 3, p.y - 8, p.x + n.r + 7 + n.width, p.y + 8, id];
        const inside = box[2] > 0 && box[0] < wide && box[3] > 0 && box[1] < high;
        const free = inside && !taken.some((t) => t[4] !== id && t[0] < box[2] && t[2] > box[0] && t[1] < box[3] && t[3] > box[1]);
        n.label.style.display = free ? "" : "none";
        if (free) taken.push(box);
        if (!n.mark.classList.contains("dim")) taken.push([p.x - n.r, p.y - n.r, p.x + n.r, p.y + n.r, id]); // a name covers lesser nodes only
      }
    }

    /* Where one looks ------------------------------------------------------------ */
    bounds(ids = [...this.nodes.keys()]) {
      const all = ids.map((id) => this.nodes.get(id)).filter(Boolean);
      if (!all.length) return { x: 0, y: 0, w: 1, h: 1 };
      const xs = all.map((n) => n.x), ys = all.map((n) => n.y), x = Math.min(...xs), y = Math.min(...ys);
      return { x, y, w: Math.max(...xs) - x, h: Math.max(...ys) - y };
    }
    fit() {
      const wide = this.box.clientWidth, high = this.box.clientHeight;
      if (!wide || !high || !this.nodes.size) return;
      this.unseen = false;
      const b = this.bounds(), room = NAME + 40; // names keep their size
      const k = Math.max(FARTHEST, Math.min(1.15, (wide - room) / Math.max(b.w, 1), (high - 70) / Math.max(b.h, 1)));
      this.tall = Math.max(1, Math.min(2, (high - 70) / Math.max(b.h * k, 1)));
      this.view = { k, x: (wide - NAME - b.w * k) / 2 - b.x * k, y: (high - b.h * k * this.tall) / 2 - b.y * k * this.tall };
      this.draw();
    }
    zoom(by, x = this.box.clientWidth / 2, y = this.box.clientHeight / 2) {
      const k = Math.max(FARTHEST, Math.min(NEAREST, this.view.k * by)), f = k / this.view.k;
      this.view = { k, x: x - (x - this.view.x) * f, y: y - (y - this.view.y) * f };
      this.draw();
    }
    /** Bring a concept into view, near enough to read what is around it. */
    reveal(id) {
      const n = this.nodes.get(id), wide = this.box.clientWidth, high = this.box.clientHeight;
      if (!n || !wide) return;
      const p = this.at(n), k = Math.max(this.view.k, 0.45);
      if (k === this.view.k && p.x > 40 && p.x < wide - 140 && p.y > 30 && p.y < high - 30) return;
      // Not past the ends of the map: what is beyond them is empty.
      const b = this.bounds(), down = k * this.tall;
      const within = (at, from, long, size, end) => (long < size - 30 - end ? (size - end - long) / 2 - from : Math.max(size - end - from - long, Math.min(30 - from, at)));
      this.view = { k, x: within(wide / 2 - n.x * k - 40, b.x * k, b.w * k, wide, NAME), y: within(high / 2 - n.y * down, b.y * down, b.h * down, high, 30) };
      this.draw();
    }
    choose(id) { this.chosen = id; this.paint(); this.draw(); }
    light(ids) { this.lit = new Set(ids); this.paint(); this.draw(); }

    /* Hands ---------------------------------------------------------------------- */
    listen() {
      const box = this.box, held = new Map();
      let moved = 0;
      box.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        held.set(event.pointerId, { x: event.clientX, y: event.clientY });
        moved = 0;
      });
      box.addEventListener("pointermove", (event) => {
        const was = held.get(event.pointerId);
        if (!was) return;
        const now = { x: event.clientX, y: event.clientY };
        moved += Math.abs(now.x - was.x) + Math.abs(now.y - was.y);
        if (moved > 4 && !box.hasPointerCapture(event.pointerId)) box.setPointerCapture(event.pointerId);
        if (held.size === 2) { // two fingers
          const other = [...held].find(([id]) => id !== event.pointerId)[1];
          const far = (a, b) => Math.hypot(a.x - b.x, a.y - b.y), corner = box.getBoundingClientRect();
          this.zoom(far(now, other) / (far(was, other) || 1), other.x - corner.x, other.y - corner.y);
        } else if (moved > 4) {
          this.view.x += now.x - was.x;
          this.view.y += now.y - was.y;
          this.draw();
        }
        held.set(event.pointerId, now);
      });
      const let_go = (event) => held.delete(event.pointerId);
      for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) box.addEventListener(name, let_go);
      box.addEventListener("click", (event) => {
        const node = event.target.closest("[data-id]");
        if (moved <= 4) this.on.choose(node ? node.dataset.id : "");
      });
      box.addEventListener("dblclick", (event) => {
        const node = event.target.closest("[data-id]");
        if (node) this.on.open(node.dataset.id);
      });
      box.addEventListener("wheel", (event) => {
        // The page scrolls as everywhere, unless somebody works in the drawing.
        if (!event.ctrlKey && document.activeElement !== box) return;
        event.preventDefault();
        const corner = box.getBoundingClientRect();
        this.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)), event.clientX - corner.x, event.clientY - corner.y);
      }, { passive: false });
      box.addEventListener("keydown", (event) => this.press(event));
    }
    press(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (way) this.step(...way);
      else if (event.key === "+" || event.key === "=") this.zoom(1.25);
      else if (event.key === "-") this.zoom(0.8);
      else if (event.key === "0") this.fit();
      else if (event.key === "Enter" && this.chosen) this.on.enter();
      else if (event.key.toLowerCase() === "f" && this.chosen) this.on.open(this.chosen);
      else if (event.key === "Escape") this.on.leave();
      else if (event.key === "/") this.on.search();
      else return;
      event.preventDefault();
    }
    /** Go to the nearest concept in a direction; from none to the first. */
    step(dx, dy) {
      const here = this.nodes.get(this.chosen);
      let best = "", least = Infinity;
      for (const [id, n] of this.nodes) {
        if (id === this.chosen) continue;
        const x = here ? n.x - here.x : n.x, y = here ? n.y - here.y : n.y;
        const along = x * dx + y * dy, across = Math.abs(x * dy) + Math.abs(y * dx);
        if (here && along <= 0) continue;
        const far = here ? along + 2 * across : x + y;
        if (far < least) { best = id; least = far; }
      }
      if (best) this.on.choose(best);
    }

    /* A picture to take away -------------------------------------------------------- */
    /** The drawing as an SVG document with every name, in the colours of the look. */
    picture() {
      const style = getComputedStyle(this.box), of = (name) => style.getPropertyValue(name).trim();
      const b = this.bounds(), pad = 30, wide = Math.ceil(b.w + 180 + 2 * pad), high = Math.ceil(b.h + 2 * pad);
      const root = svg("svg", { xmlns: NS, width: wide, height: high, viewBox: `${b.x - pad} ${b.y - pad} ${wide} ${high}`, "font-family": style.fontFamily, "font-size": 12.5 });
      const line = of("--con-line"), ink = of("--ink");
      root.append(svg("rect", { x: b.x - pad, y: b.y - pad, width: wide, height: high, fill: of("--paper") }));
      const head = this.svg.querySelector("marker").cloneNode(true);
      head.firstChild.removeAttribute("class");
      head.firstChild.setAttribute("fill", line);
      const defs = svg("defs");
      defs.append(head);
      root.append(defs);
      for (const { relation: e } of this.edges) {
        const a = this.nodes.get(e.source), z = this.nodes.get(e.target);
        root.append(svg("path", { d: arrow(a, z, z.full + 3), fill: "none", stroke: line, "stroke-width": 0.8 + 1.4 * e.confidence, "stroke-dasharray": DASHES[e.kind], "marker-end": "url(#con-arrow)" }));
      }
      for (const n of this.nodes.values()) {
        const mark = svg("g", { transform: `translate(${n.x},${n.y})` });
        mark.append(svg("path", { d: outline(n.concept.kind, n.full), fill: of(this.colour(n.concept)), stroke: of("--paper"), "stroke-width": 1.5 }));
        const label = svg("text", { x: n.full + 5, y: 4, fill: ink });
        label.textContent = short(n.concept.name);
        mark.append(label);
        root.append(mark);
      }
      return { text: new XMLSerializer().serializeToString(root), wide, high };
    }
  }
  Studio.ConceptDrawing = Drawing;
})();
