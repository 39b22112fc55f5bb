/* The list of runs: which there are, how each is doing, which is in front, which are overlaid. */

import { byId, make, say, steps } from "/assets/dom.js";
import { runColour } from "/assets/charts.js";

const { format } = foreshockAxes;
export const STATES = {
  waiting: "waiting", unreadable: "unreadable", diverged: "diverged", spiked: "spiked", danger: "in danger",
  rising: "rising", departing: "ranks differ", recovering: "recovering", calm: "calm", unknown: "not known",
};
const INITIAL = 12; // runs that are overlaid before anybody chose

export class RunList {
  constructor(page) {
    this.page = page;
    this.runs = new Map();
    this.chosen = new Set();
    this.left = new Set(); // runs that somebody took away
    this.items = new Map();
    this.count = 0;
    byId("filter").addEventListener("input", () => this.draw());
    byId("listed").addEventListener("click", () => this.unfold(!byId("runs").classList.contains("unfolded")));
    byId("all").addEventListener("click", () => { for (const id of this.visible()) this.choose(id, true); page.changed(); });
    byId("none").addEventListener("click", () => { for (const id of [...this.chosen]) this.choose(id, id === page.front); page.changed(); });
  }

  take({ runs, gone, order }) {
    for (const run of runs) {
      const known = this.runs.get(run.id);
      this.runs.set(run.id, { ...run, number: known?.number ?? this.count++ });
      if (!known && this.chosen.size < INITIAL && !this.left.has(run.id)) this.chosen.add(run.id);
    }
    for (const id of gone) {
      this.runs.delete(id);
      this.chosen.delete(id);
      this.items.get(id)?.item.remove();
      this.items.delete(id);
    }
    this.order = order.filter((id) => this.runs.has(id));
    this.draw();
  }

  /** On a narrow screen the list is folded: the verdict comes first. */
  unfold(open) {
    byId("runs").classList.toggle("unfolded", open);
    byId("listed").setAttribute("aria-expanded", String(open));
  }

  choose(id, wanted) {
    if (wanted) this.chosen.add(id);
    else this.chosen.delete(id);
    if (wanted) this.left.delete(id);
    else this.left.add(id);
    this.draw();
  }

  /** Runs that the filter lets through, in order. */
  visible() {
    const words = byId("filter").value.trim().toLowerCase();
    return this.order.filter((id) => {
      const run = this.runs.get(id);
      return !words || `${run.label} ${run.name} ${run.place} ${STATES[run.state]}`.toLowerCase().includes(words);
    });
  }

  /** Names as they are shown: without the words that all of them begin with. */
  shorten() {
    const names = this.order.map((id) => this.runs.get(id).label);
    let common = names.length > 1 ? names[0].length : 0;
    for (const name of names) while (!name.startsWith(names[0].slice(0, common))) common--;
    common = Math.max(...[" ", "/", "_"].map((sign) => names[0].lastIndexOf(sign, common - 1))) + 1;
    for (const id of this.order) {
      const run = this.runs.get(id);
      run.short = common > 5 && run.label.length > common ? `…${run.label.slice(common)}` : run.label;
    }
  }

  draw() {
    if (this.order.length) this.shorten();
    byId("runs").hidden = byId("listed").hidden = this.order.length < 2;
    say(byId("listed"), `${this.order.length} runs`);
    byId("frame").classList.toggle("many", this.order.length > 1);
    const visible = new Set(this.visible());
    const list = byId("list");
    this.order.forEach((id, place) => {
      const parts = this.items.get(id) ?? this.item(id);
      const run = this.runs.get(id), front = id === this.page.front;
      parts.item.hidden = !visible.has(id);
      parts.item.classList.toggle("front", front);
      parts.box.checked = this.chosen.has(id);
      parts.swatch.style.background = runColour(run.number);
      if (front) parts.open.setAttribute("aria-current", "true");
      else parts.open.removeAttribute("aria-current");
      say(parts.name, run.short);
      parts.name.title = `${run.name}, ${run.place}`;
      say(parts.state, STATES[run.state] ?? run.state);
      parts.state.dataset.state = run.state;
      const progress = run.read < 1 ? `reading ${Math.floor(100 * run.read)} %` : run.step === null ? "no step yet" : steps(run.step);
      parts.numbers.title = "the last step, and its loss";
      say(parts.numbers, `${progress}${typeof run.loss === "number" ? ` · ${format(run.loss)}` : ""}`);
      if (list.children[place] !== parts.item) list.insertBefore(parts.item, list.children[place] ?? null);
    });
  }

  item(id) {
    const box = make("input", { type: "checkbox", onchange: () => { this.choose(id, box.checked); this.page.changed(); } });
    const swatch = make("i"), name = make("b"), state = make("span", { class: "state" }), numbers = make("span", { class: "soft" });
    const open = make("button", { type: "button", class: "open", onclick: () => this.page.bring(id) }, name, numbers, state);
    const item = make("li", {}, make("label", { title: "Overlay" }, box, swatch), open);
    box.setAttribute("aria-label", `Overlay ${this.runs.get(id).label}`);
    this.items.set(id, { item, box, swatch, name, state, numbers, open });
    return this.items.get(id);
  }
}
