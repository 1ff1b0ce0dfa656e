"use strict";

// The page shows traces side by side. Every text of a trace goes through `textContent` or an attribute of a fixed
// name, so it is shown as text, whatever it holds.
//
//   Views    from the JSON form to one view for each frame: what every position is, and why it waits
//   Panel    the tokens of one trace, with arcs or a heat map of dependencies
//   Player   the pass that all panels show, its controls and keys
//
// export.js saves pictures of it. start.js shows the traces of a page, live.js those that a server sends.

const SVG = "http://www.w3.org/2000/svg";
const MILLISECONDS = 700;
// Without a chosen token, arcs below this dependency are not drawn.
const SMALLEST_ARC = 0.05;
// Tokens below this probability are not listed.
const SMALLEST_SHARE = 0.005;
// The strongest color behind a token, on which the text of both color schemes has a contrast of 4.5.
const STRONGEST = 0.5;

const byId = (id) => document.getElementById(id);

/** Return a new element with attributes and texts or elements in it. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function makeSvg(name, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) {
    const title = document.createElementNS(SVG, "title");
    title.textContent = text;
    element.append(title);
  }
  return element;
}

/** Return a token's text with blanks as characters. */
function shown(text) {
  const blanks = text.replace(/\r?\n/g, "\u21b5").replace(/\t/g, "\u21e5");
  return blanks.replace(/^ +| +$/g, (found) => "\u00b7".repeat(found.length));
}

const number = (value) => (value === undefined ? "unknown" : String(Number(value.toPrecision(2))));

// ---- From the JSON form to views ----

/** Return the state after an operation. `cell` is what one position is in one frame. */
function changed(cell, operation, pass) {
  const written = { text: operation.text ?? cell.text, certainty: operation.confidence ?? cell.certainty };
  switch (operation.type) {
    case "commit":
      return { ...cell, ...written, state: "new", pass };
    case "set-token":
      if (operation.state === "proposed") return { ...cell, ...written, state: "draft" };
      if (operation.state === "padding") return { ...cell, text: written.text, state: "padding" };
      return { ...cell, text: written.text };
    case "mask":
      return { ...cell, text: "", certainty: undefined, state: "again", pass: undefined };
    case "set-distribution":
      return { ...cell, likely: operation.candidates, entropy: operation.entropy };
    default:
      return cell;
  }
}

/** Return whether a position holds a token of the answer. */
function isWritten(cell) {
  return cell.pass !== undefined && cell.state !== "padding";
}

/** Return the cell with which a position enters the next frame: what is new has settled, a draft is masked again. */
function entering(cell) {
  const state = { new: "settled", draft: "masked", again: "masked" }[cell.state] ?? cell.state;
  return { ...cell, state, text: state === "masked" ? "" : cell.text, reason: undefined };
}

/** The views of a trace, one for each frame; frames can be added while its answer is decoded. */
class Views {
  constructor(trace) {
    const slots = trace.initial.slots;
    this.places = new Map(slots.map((slot, place) => [slot.slotId, place]));
    this.cells = slots.map((slot) => ({ state: slot.state === "masked" ? "masked" : "prompt", text: slot.text ?? "" }));
    this.title = trace.generation.title ?? trace.generation.algorithm ?? "trace";
    this.prompt = trace.prompt?.text ?? "";
    const masked = slots.flatMap((slot, place) => (slot.state === "masked" ? [place] : []));
    this.first = masked[0] ?? slots.length;
    // Tokens of the answer that stay: not those after its end, once it is known.
    this.kept = masked;
    this.numPasses = 0;
    this.isOver = false;
    this.answer = "";
    this.views = [];
    for (const frame of trace.frames) this.add(frame);
    if (trace.final) this.end(trace.final);
  }

  add(frame) {
    this.cells = this.cells.map(entering);
    if (frame.kind === "denoise") this.numPasses += 1;
    const dependencies = [];
    for (const operation of frame.operations) {
      const place = this.places.get(operation.slotId);
      if (place === undefined) continue;
      if (operation.type === "set-scalar" && operation.name.startsWith("dependency:")) {
        const source = this.places.get(operation.name.slice("dependency:".length));
        if (source !== undefined) dependencies.push({ source, target: place, value: operation.value });
      }
      this.cells[place] = changed(this.cells[place], operation, this.numPasses);
    }
    for (const note of frame.annotations ?? []) {
      const place = this.places.get(note.target?.slotId);
      if (place !== undefined) this.cells[place].reason = note.text;
    }
    this.views.push({ cells: this.cells, dependencies, pass: this.numPasses, isLast: frame.kind === "final" });
  }

  end(final) {
    this.isOver = true;
    this.answer = final.text ?? "";
    this.kept = this.cells.flatMap((cell, place) => (isWritten(cell) ? [place] : []));
  }
}

// ---- One trace ----

const WORDS = {
  prompt: "given",
  masked: "masked",
  again: "masked again",
  draft: "masked, with a draft",
  new: "new",
  settled: "settled",
  padding: "after the end",
};

/** Return what a token is, in words. */
function describe(place, cell) {
  const parts = [`Position ${place}: ${WORDS[cell.state]}`];
  if (cell.text) parts.push(`"${shown(cell.text)}"`);
  if (cell.pass !== undefined) parts.push(`pass ${cell.pass}`);
  if (cell.certainty !== undefined && cell.text) parts.push(`certainty ${number(cell.certainty)}`);
  if (cell.reason) parts.push(cell.reason);
  return parts.join(", ");
}

class Panel {
  constructor(trace, onPick) {
    this.trace = trace;
    this.onPick = onPick;
    this.chosen = null;
    this.heading = make("h2", {}, trace.title);
    this.counter = make("p", { class: "counter" });
    this.list = make("ol", { class: "tokens", "aria-label": `Tokens of ${trace.title}` });
    this.arcs = makeSvg("svg", { "aria-hidden": "true" });
    this.map = makeSvg("svg", { class: "map", role: "img" });
    this.answer = make("p", { class: "answer-text" });
    this.buttons = new Map();
    for (let place = trace.first; place < trace.views[0].cells.length; place += 1) this.addToken(place);
    this.list.append(this.arcs);
    this.element = make("section", { class: "panel", "aria-label": trace.title });
    this.element.append(this.heading, this.counter, this.list, this.map, this.answer);
  }

  addToken(place) {
    // One token of a list is reached with the tab key, the others with up and down.
    const button = make("button", { type: "button", class: "cell", tabindex: this.buttons.size ? "-1" : "0" });
    for (const event of ["focus", "pointerenter", "click"]) {
      button.addEventListener(event, () => this.onPick(this, place));
    }
    button.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      const other = this.buttons.get(place + step);
      if (step === undefined) return;
      event.preventDefault();
      if (!other) return;
      button.tabIndex = -1;
      other.tabIndex = 0;
      other.focus();
    });
    this.buttons.set(place, button);
    this.list.append(make("li", {}, button, make("small", { "aria-hidden": "true" }, String(place))));
  }

  /** Return the view of a frame; a trace that has ended stays at its last one. */
  view(frame) {
    return this.trace.views[Math.min(frame, this.trace.views.length - 1)];
  }

  show(frame, settings) {
    const view = this.view(frame);
    for (const [place, button] of this.buttons) this.showToken(place, button, view.cells[place], settings);
    const written = this.trace.kept.filter((place) => isWritten(view.cells[place])).length;
    const of = this.trace.isOver ? ` of ${this.trace.numPasses}` : "";
    const passes = view.isLast ? `finished after ${view.pass} passes` : `pass ${view.pass}${of}`;
    this.summary = `${passes}, ${written} of ${this.trace.kept.length} tokens`;
    this.counter.textContent = this.summary;
    this.answer.textContent = view.isLast ? this.trace.answer : "";
    this.frame = frame;
    this.showLinks(settings);
  }

  showToken(place, button, cell, settings) {
    const isVisible = cell.text !== "" && cell.state !== "prompt" && cell.state !== "padding";
    const shares = { pass: (cell.pass ?? 0) / Math.max(settings.numPasses, 1), certainty: cell.certainty ?? 0 };
    const level = isVisible ? STRONGEST * shares[settings.color] : 0;
    button.className = `cell ${cell.state}`;
    button.classList.toggle("picked", this.chosen === place);
    // Long names of special tokens would take the room of the others.
    button.classList.toggle("special", /^<.{4,}>$/.test(cell.text));
    button.style.setProperty("--level", level.toFixed(3));
    button.textContent = shown(cell.text) || "\u00a0";
    button.setAttribute("aria-label", describe(place, cell));
  }

  choose(place) {
    this.chosen = place;
    for (const [other, button] of this.buttons) button.classList.toggle("picked", other === place);
  }

  showLinks(settings) {
    const { dependencies, cells } = this.view(this.frame);
    this.arcs.replaceChildren();
    this.map.replaceChildren();
    this.map.style.display = settings.links === "map" && dependencies.length ? "" : "none";
    if (settings.links === "arcs") this.drawArcs(dependencies, cells);
    if (settings.links === "map" && dependencies.length) this.drawMap(dependencies);
  }

  /** Draw the dependencies of the chosen token, or else those on new tokens of the tokens that wait. */
  drawArcs(dependencies, cells) {
    const isShown = ({ source, target, value }) =>
      this.chosen === null
        ? value >= SMALLEST_ARC && cells[source].state === "new" && cells[target].state === "draft"
        : source === this.chosen || target === this.chosen;
    for (const { source, target, value } of dependencies.filter(isShown)) {
      const [from, to] = [source, target].map((place) => this.buttons.get(place)?.parentElement);
      if (!from || !to) continue;
      const [x1, x2] = [from, to].map((item) => item.offsetLeft + item.offsetWidth / 2);
      const [y1, y2] = [from.offsetTop, to.offsetTop];
      const top = Math.min(y1, y2) - 8 - Math.min(14, Math.abs(x1 - x2) / 6);
      const curve = `M ${x1} ${y1} C ${x1} ${top}, ${x2} ${top}, ${x2} ${y2}`;
      this.arcs.append(makeSvg("path", { d: curve, "stroke-opacity": (0.15 + 0.85 * value).toFixed(2) }));
    }
  }

  /** Draw a square for each pair: rows are sources, columns are targets. */
  drawMap(dependencies) {
    const places = [...new Set(dependencies.flatMap(({ source, target }) => [source, target]))].sort((a, b) => a - b);
    const order = new Map(places.map((place, index) => [place, index]));
    const size = places.length;
    this.map.setAttribute("viewBox", `-1.4 -1.4 ${size + 1.5} ${size + 1.5}`);
    const largest = dependencies.reduce((best, each) => (each.value > best.value ? each : best));
    const { source: from, target: to, value: most } = largest;
    const best = `the largest is ${number(most)}, of position ${to} on position ${from}`;
    const label = `Dependencies of ${size} positions, sources in rows and targets in columns; ${best}`;
    this.map.setAttribute("aria-label", label);
    for (const { source, target, value } of dependencies) {
      const corner = { x: order.get(target), y: order.get(source), width: 1, height: 1 };
      const text = `Position ${target} depends on position ${source}: D = ${number(value)}`;
      this.map.append(makeSvg("rect", { ...corner, "fill-opacity": value.toFixed(3) }, text));
    }
    this.map.append(makeSvg("rect", { class: "frame", x: 0, y: 0, width: size, height: size }));
    places.forEach((place, index) => {
      const row = makeSvg("text", { x: -0.15, y: index + 0.7, "text-anchor": "end" });
      const column = makeSvg("text", { x: index + 0.5, y: -0.2, "text-anchor": "middle" });
      row.textContent = column.textContent = String(place);
      this.map.append(row, column);
    });
  }

  /** Return what is known of a token in the shown frame, as a list of terms. */
  details(place) {
    const { cells, dependencies } = this.view(this.frame);
    const cell = cells[place];
    const rows = [["Token", describe(place, { ...cell, reason: undefined })]];
    if (cell.reason) rows.push(["Reason", cell.reason]);
    if (cell.likely) {
      const seen = cell.likely.filter(({ probability }) => probability >= SMALLEST_SHARE);
      const likely = seen.map(({ text, probability }) => `"${shown(text)}" ${number(probability)}`);
      const before = cell.state === "settled" ? " (when it was last predicted)" : "";
      rows.push([`Likely${before}`, `${likely.join("   ")}   entropy ${number(cell.entropy)} nats`]);
    }
    const linked = dependencies.filter(({ target }) => target === place).sort((a, b) => b.value - a.value);
    if (linked.length) {
      rows.push(["Depends on", linked.map(({ source, value }) => `${source}: ${number(value)}`).join("   ")]);
    }
    return rows;
  }
}

// ---- All traces ----

class Player {
  constructor() {
    this.timer = null;
    this.settings = { color: "pass", links: "arcs", numPasses: 1 };
    this.load([]);
    this.listen();
  }

  /** Show other traces, from their first frame on. */
  load(traces) {
    this.stop();
    this.traces = traces;
    this.frame = 0;
    this.isFollowing = true;
    this.picked = null;
    this.panels = traces.map((trace) => new Panel(trace, (panel, place) => this.pick(panel, place)));
    byId("panels").replaceChildren(...this.panels.map((panel) => panel.element));
    byId("prompt").textContent = traces[0]?.prompt ?? "";
    this.show();
  }

  /** The last frame; before there is a trace, the first one. */
  get last() {
    return Math.max(1, ...this.traces.map((trace) => trace.views.length)) - 1;
  }

  get isLive() {
    return this.traces.some((trace) => !trace.isOver);
  }

  /** Show what was added to the traces, unless another frame than the last one was chosen. */
  grown() {
    if (this.isFollowing) this.frame = this.last;
    this.show();
  }

  listen() {
    const actions = {
      first: () => this.go(0),
      back: () => this.go(this.frame - 1),
      next: () => this.go(this.frame + 1),
      last: () => this.go(this.last),
      play: () => this.toggle(),
      png: () => savePng(),
      gif: () => saveGif(this),
    };
    for (const [id, action] of Object.entries(actions)) byId(id).addEventListener("click", action);
    actions.leave = () => this.pick(null, null);
    byId("scrubber").addEventListener("input", (event) => this.go(Number(event.target.value)));
    for (const name of ["color", "links"]) {
      byId(name).addEventListener("change", (event) => {
        this.settings[name] = event.target.value;
        this.show();
      });
    }
    document.addEventListener("keydown", (event) => this.onKey(event, actions));
    window.addEventListener("resize", () => this.panels.forEach((panel) => panel.showLinks(this.settings)));
  }

  onKey(event, actions) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("select, textarea, input:not(#scrubber)")) return;
    // A button has its own use for the space key.
    const isButton = event.target.closest("button") !== null;
    const names = { ArrowLeft: "back", ArrowRight: "next", Home: "first", End: "last", Escape: "leave" };
    const name = event.key === " " && !isButton ? "play" : names[event.key];
    if (name === undefined) return;
    event.preventDefault();
    actions[name]();
  }

  /** Show a frame; whoever chooses one stops the playback. */
  go(frame) {
    this.stop();
    this.frame = Math.max(0, Math.min(frame, this.last));
    this.isFollowing = this.frame === this.last;
    this.show();
  }

  toggle() {
    if (this.timer !== null) {
      this.stop();
      this.show();
      return;
    }
    if (this.frame >= this.last) this.frame = 0;
    this.timer = setInterval(() => this.tick(), MILLISECONDS);
    this.show();
  }

  tick() {
    this.frame = Math.min(this.frame + 1, this.last);
    if (this.frame >= this.last) this.stop();
    this.show();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
  }

  /** Show the details of a token, and its dependencies; without a panel, of none. */
  pick(panel, place) {
    this.picked = panel === null ? null : { panel, place };
    for (const each of this.panels) each.choose(each === panel ? place : null);
    this.panels.forEach((each) => each.showLinks(this.settings));
    this.showDetails();
  }

  show() {
    document.body.classList.toggle("by-certainty", this.settings.color === "certainty");
    this.settings.numPasses = Math.max(0, ...this.traces.map((trace) => trace.numPasses));
    for (const panel of this.panels) panel.show(this.frame, this.settings);
    const isPlaying = this.timer !== null;
    byId("scrubber").max = String(this.last);
    byId("play").textContent = isPlaying ? "Pause" : "Play";
    byId("scrubber").value = String(this.frame);
    byId("scrubber").setAttribute("aria-valuetext", `pass ${Math.min(this.frame, this.settings.numPasses)} of ${this.settings.numPasses}`);
    byId("scale").textContent = `Stronger color: ${this.settings.color === "pass" ? "a later pass" : "more certain"}.`;
    // A screen reader would be interrupted by every pass.
    byId("status").setAttribute("aria-live", isPlaying || this.isLive ? "off" : "polite");
    byId("status").textContent = this.panels.map((panel) => `${panel.trace.title}: ${panel.summary}.`).join(" ");
    this.showDetails();
  }

  showDetails() {
    const list = make("dl");
    for (const [term, text] of this.picked ? this.picked.panel.details(this.picked.place) : []) {
      list.append(make("dt", {}, term), make("dd", {}, text));
    }
    const hint = "Point at a token, or go to one with the tab key, to see what it depends on and why it waits.";
    byId("details").replaceChildren(this.picked ? list : make("p", {}, hint));
  }
}
