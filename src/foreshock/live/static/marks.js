/* Marks above the loss – spikes, alarms, a guard's actions, events – and the explanation that each opens. */

import { ask, byId, make, say, steps } from "/assets/dom.js";

const NEAR = 16; // pixels: marks that are nearer are one
const SIGNS = { spike: "▲", divergence: "▲", "non-finite": "▲", climb: "▲", alarm: "◆", guard: "■", event: "●", misuse: "!", rewind: "↩", recovery: "!" };
const RANK = ["event", "guard", "alarm", "climb", "misuse", "rewind", "recovery", "spike", "divergence", "non-finite"];

/** All marks of a run in order of their steps. */
export function allMarks({ spikes = [], alarms = [], actions = [], events = [] }) {
  return [...spikes, ...alarms, ...actions, ...events].sort((a, b) => a.step - b.step);
}

export function describe(mark) {
  const when = mark.end > mark.step ? `steps ${steps(mark.step)} to ${steps(mark.end)}` : `step ${steps(mark.step)}`;
  return `${mark.sort === mark.label ? mark.sort : `${mark.sort} ${mark.label}`}, ${when}`;
}

/** The strip of marks above a chart. */
export class MarkLane {
  constructor(page) {
    this.page = page;
    this.element = make("div", { class: "lane", role: "group", "aria-label": "Spikes, alarms and actions" });
  }

  draw(u) {
    const [from, to] = this.page.window();
    const offset = u.over.offsetLeft;
    const groups = [];
    for (const mark of allMarks(this.page.details?.marks ?? {})) {
      if (mark.step < from || mark.step > to) continue;
      const x = offset + u.valToPos(mark.step, "x");
      const last = groups[groups.length - 1];
      if (last && x - last.x < NEAR) last.marks.push(mark);
      else groups.push({ x, marks: [mark] });
    }
    const key = JSON.stringify(groups.map(({ x, marks }) => [Math.round(x), marks.length, marks[0].key, marks[marks.length - 1].label]));
    if (key === this.key) return; // a button that has the focus must not be replaced by its like
    this.key = key;
    const focus = document.activeElement?.dataset?.mark;
    this.element.replaceChildren(...groups.map(({ x, marks }) => this.button(x, marks)));
    if (focus) [...this.element.children].find((one) => one.dataset.mark === focus)?.focus();
  }

  button(x, marks) {
    const top = marks.reduce((a, b) => (RANK.indexOf(b.sort) > RANK.indexOf(a.sort) ? b : a));
    const many = marks.length > 1;
    const words = many ? `${marks.length} marks, the first: ${describe(marks[0])}` : describe(marks[0]);
    const button = make("button", {
      type: "button", class: `mark ${top.sort}`, "aria-label": words, title: words, "data-mark": top.key,
      onclick: () => this.page.open(top.key),
    }, SIGNS[top.sort] ?? "●", ...(many ? [make("sub", {}, String(marks.length))] : []));
    button.style.left = `${x}px`;
    return button;
  }
}

/** The dialog that explains a mark. */
export class Explanation {
  constructor(page) {
    this.page = page;
    this.box = byId("explanation");
    this.key = this.awaited = null;
    this.box.addEventListener("close", () => { this.awaited = null; });
    byId("ezoom").addEventListener("click", () => {
      this.box.close();
      if (this.window) page.show(this.window);
    });
    byId("eprev").addEventListener("click", () => this.turn(-1));
    byId("enext").addEventListener("click", () => this.turn(1));
    this.box.addEventListener("click", (event) => { if (event.target === this.box) this.box.close(); });
  }

  async open(key) {
    this.key = this.awaited = key;
    let found;
    try {
      found = await (await ask("/api/explain", { run: this.page.front, mark: key })).json();
    } catch {
      return; // the mark went with an earlier session of the run, or the server is gone
    }
    if (this.awaited !== key) return; // another one was opened meanwhile, or the box was closed
    this.window = found.window;
    say(byId("etitle"), found.title);
    byId("etext").replaceChildren(...found.text.map((words) => make("p", {}, words)));
    byId("efacts").replaceChildren(...found.facts.map(([name, words]) => make("div", {}, make("dt", {}, name), make("dd", {}, words))));
    if (!this.box.open) this.box.showModal();
  }

  /** Open the mark after the one that was open, or before it; the first, or the last in view, at first. */
  turn(by) {
    const marks = allMarks(this.page.details?.marks ?? {});
    if (!marks.length) return;
    const at = marks.findIndex((mark) => mark.key === this.key);
    const [from, to] = this.page.window();
    const inView = marks.filter((mark) => mark.step >= from && mark.step <= to);
    const start = inView.length ? inView : marks;
    const next = at < 0 ? (by > 0 ? start[0] : start[start.length - 1]) : marks[(at + by + marks.length) % marks.length];
    this.open(next.key);
  }
}
