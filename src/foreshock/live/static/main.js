/* The page: which run is in front, which steps are in view, and what is asked of the server when. */

import { Chart } from "/assets/charts.js";
import { ask, byId, make, say, steps } from "/assets/dom.js";
import { pan, zoom } from "/assets/gestures.js";
import { HeatMaps } from "/assets/heat.js";
import { Explanation } from "/assets/marks.js";
import { Panels } from "/assets/panels.js";
import { RunList } from "/assets/runs.js";
import { Store } from "/assets/store.js";

const LAST = 1000; // steps that are kept in view if wanted
const EVERY = 1500; // ms between two looks at the details of the run in front, while they change
const FEWEST = 4; // steps in view

class Page {
  constructor({ charts, terms, folder, version }) {
    this.front = null;
    this.details = null;
    this.view = null; // steps in view; null for the whole run
    this.following = false;
    // What the overlays draw: filled anew for each run in front.
    this.marks = { spikes: [], falseAlarms: [], answered: [], actions: [] };
    this.store = new Store(() => this.draw());
    this.list = new RunList(this);
    this.panels = new Panels(this);
    this.heats = new HeatMaps(this);
    this.explanation = new Explanation(this);
    this.charts = charts.map((style) => new Chart(style, this));
    byId("charts").append(...this.charts.map((chart) => chart.figure));
    say(byId("folder"), folder);
    say(byId("version"), `Foreshock ${version}`);
    byId("terms").append(...Object.entries(terms).map(([term, words]) => make("div", {}, make("dt", {}, term), make("dd", {}, words))));
    this.buttons();
    foreshockTheme.changed((wanted) => {
      say(byId("theme"), { auto: "◐ system", dark: "☾ dark", light: "☀ light" }[wanted]);
      byId("theme").setAttribute("aria-label", `Theme: ${wanted === "auto" ? "as the system" : wanted}`);
      this.charts.forEach((chart) => chart.plot && chart.repaint());
      this.heats.draw();
      if (this.list.order) this.list.draw();
    });
    setInterval(() => this.panels.tiles(), 5000);
    this.listen();
  }

  // ---------------------------------------------------------------- what the server says

  listen() {
    const stream = new EventSource("/api/stream");
    stream.onopen = () => this.link("live");
    stream.onerror = () => this.link("lost");
    stream.onmessage = (event) => this.take(JSON.parse(event.data));
  }

  link(state) {
    const place = byId("link");
    place.dataset.state = state;
    say(place, state === "live" ? "live" : "not connected: trying again");
  }

  take(message) {
    this.list.take(message);
    for (const id of message.gone) this.store.forget(id);
    if (!this.list.runs.has(this.front)) this.front = null;
    const none = !this.list.order.length;
    byId("empty").hidden = !none;
    byId("run").hidden = none;
    if (none) return;
    if (this.front === null) {
      const runs = this.list.order.map((id) => this.list.runs.get(id));
      this.bring(runs.reduce((a, b) => (b.written > a.written ? b : a)).id);
      return;
    }
    if (message.runs.some((run) => run.id === this.front)) {
      this.panels.status(this.list.runs.get(this.front));
      this.inform();
    }
    this.refresh();
  }

  /** Fetch the details of the run in front: now, or a while after the last time. */
  async inform() {
    if (this.waiting) return;
    this.waiting = true;
    await new Promise((done) => setTimeout(done, Math.max(0, (this.informed ?? 0) + EVERY - Date.now())));
    this.waiting = false;
    this.informed = Date.now();
    const run = this.list.runs.get(this.front);
    if (!run) return;
    try {
      const found = await (await ask("/api/details", { run: run.id })).json();
      if (found.id !== this.front) return;
      this.details = found;
      const { spikes, falseAlarms, answered, actions } = found.marks;
      Object.assign(this.marks, { spikes, falseAlarms, answered, actions: actions.map(({ step, end }) => [step, end]) });
      this.panels.details(found);
      const layers = `${run.id} ${run.generation} ${run.layers}`;
      if (layers !== this.layers) this.heats.show(await (await ask("/api/heat", { run: run.id })).json());
      this.layers = layers;
      this.draw();
      if (found.version < run.version) this.inform(); // the longer verdict is still being written
    } catch (error) {
      if (!(error instanceof TypeError) && !/: \d+$/.test(error.message)) throw error; // the server went away
    }
  }

  // ---------------------------------------------------------------- what is shown

  /** Bring a run to the front. */
  bring(id) {
    if (id === undefined) return;
    this.front = id;
    this.details = null;
    this.explanation.key = null;
    Object.assign(this.marks, { spikes: [], falseAlarms: [], answered: [], actions: [] });
    this.informed = 0;
    const run = this.list.runs.get(id);
    document.title = `${run.label} – Foreshock`;
    this.panels.status(run);
    this.list.draw();
    this.inform();
    this.changed();
  }

  /** The runs in view, that in front first: what is marked is marked on its line. */
  shown() {
    const others = this.list.order.filter((id) => id !== this.front && this.list.chosen.has(id));
    return [this.front, ...others].map((id) => this.list.runs.get(id)).filter((run) => run && run.step !== null);
  }

  whole() {
    // From what is held: a log may begin at any step.
    let first = Infinity, last = -Infinity;
    for (const run of this.shown()) {
      const x = this.view ? null : this.store.columns(run.id, "loss")?.[0];
      first = Math.min(first, x?.length ? x[0] : 0);
      last = Math.max(last, run.step, x?.length ? x[x.length - 1] : 0);
    }
    return first < last ? [first, last] : [Number.isFinite(first) ? first : 0, (Number.isFinite(first) ? first : 0) + 1];
  }

  window() {
    if (this.following) {
      const last = this.list.runs.get(this.front)?.step ?? LAST;
      return [Math.max(last - LAST, 0), Math.max(last, FEWEST)];
    }
    return this.view ?? this.whole();
  }

  isZoomed() {
    return this.view !== null || this.following;
  }

  /** Show some steps; null for all. */
  show(view) {
    this.following = false;
    if (view) {
      const [first, last] = this.whole();
      let [from, to] = [Math.max(Math.min(...view), first), Math.min(Math.max(...view), last)];
      if (to - from < FEWEST) {
        const middle = Math.min(Math.max((from + to) / 2, first + FEWEST / 2), Math.max(last - FEWEST / 2, first));
        [from, to] = [middle - FEWEST / 2, middle + FEWEST / 2];
      }
      this.view = from <= first && to >= last ? null : [from, to];
    } else this.view = null;
    this.move();
  }

  /** Draw the new window with what is held, then fetch what it needs. */
  move() {
    this.charts.forEach((chart) => chart.move());
    this.heats.draw();
    this.toolbar();
    clearTimeout(this.soon);
    this.soon = setTimeout(() => { this.soon = 0; this.changed(); }, 60);
  }

  /** Fetch what the runs in view need, and draw at once what is held. */
  changed() {
    this.refresh();
    this.draw();
  }

  /** Fetch what the runs in view need; what comes is drawn. */
  refresh() {
    const runs = this.shown();
    if (!runs.length) return;
    const names = new Set(runs.flatMap((run) => run.charts));
    const wide = byId("charts").clientWidth || 800;
    const points = runs.length > 4 ? Math.max(400, Math.round((8 * wide) / runs.length)) : Math.round(2 * wide);
    const view = this.isZoomed() ? this.window().map(Math.round) : null;
    this.store.want({ runs, charts: this.charts.map((chart) => chart.style.id).filter((id) => names.has(id)), window: view, points });
  }

  /** Draw at the next frame, once, whoever asks how often. */
  draw() {
    if (this.drawing) return;
    this.drawing = true;
    const began = performance.now();
    const paint = () => {
      this.charts.forEach((chart) => chart.draw());
      this.heats.draw();
      this.toolbar();
      this.drawing = false;
      // A slow machine draws less often instead of falling behind.
      const now = performance.now();
      this.rest = now + Math.min(2 * (now - began), 500);
    };
    setTimeout(() => requestAnimationFrame(paint), Math.max(0, (this.rest ?? 0) - began));
  }

  toolbar() {
    const [from, to] = this.window();
    say(byId("span"), `${this.following ? "The last steps" : this.view ? "In view" : "Whole run"}: ${steps(from)} – ${steps(to)}`);
    byId("whole").disabled = !this.isZoomed();
    byId("follow").setAttribute("aria-pressed", String(this.following));
  }

  follow() {
    this.following = !this.following;
    this.view = null;
    this.move();
  }

  /** The step under the cursor of any chart; null without one. */
  cursorStep() {
    const plot = this.charts.find((chart) => chart.plot && chart.plot.cursor.idx != null)?.plot;
    return plot ? plot.data[0][plot.cursor.idx] : null;
  }

  open(key) {
    this.explanation.open(key);
  }

  // ---------------------------------------------------------------- what the reader does

  buttons() {
    const keys = byId("keys");
    byId("help").addEventListener("click", () => keys.showModal());
    keys.addEventListener("click", (event) => { if (event.target === keys) keys.close(); });
    byId("theme").addEventListener("click", () => foreshockTheme.next());
    const actions = {
      whole: () => this.show(null), follow: () => this.follow(), in: () => zoom(this, 0.5), out: () => zoom(this, 2),
      next: () => this.explanation.turn(1), prev: () => this.explanation.turn(-1),
    };
    for (const [id, act] of Object.entries(actions)) byId(id).addEventListener("click", act);
    document.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input[type=search], textarea");
    if (typing) {
      if (event.key === "Escape") { typing.value = ""; typing.dispatchEvent(new Event("input")); typing.blur(); }
      return;
    }
    const open = byId("explanation").open;
    if (byId("keys").open || (open && !["n", "p"].includes(event.key))) return; // Escape closes it by itself
    const turn = (by) => {
      const visible = this.list.visible();
      this.bring(visible[(visible.indexOf(this.front) + by + visible.length) % visible.length]);
    };
    const actions = {
      "?": () => byId("keys").showModal(), t: () => foreshockTheme.next(), 0: () => this.show(null), Escape: () => this.show(null),
      f: () => this.follow(), "+": () => zoom(this, 0.5), "=": () => zoom(this, 0.5), "-": () => zoom(this, 2),
      ",": () => pan(this, -0.5), ".": () => pan(this, 0.5), n: () => this.explanation.turn(1), p: () => this.explanation.turn(-1),
      j: () => turn(1), k: () => turn(-1), x: () => { this.list.choose(this.front, !this.list.chosen.has(this.front)); this.changed(); },
      "/": () => { this.list.unfold(true); byId("filter").focus(); },
    };
    const act = actions[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}

const settings = await (await ask("/api/charts", {})).json();
window.foreshockPage = new Page(settings);
