/* The charts: one figure each, with its legend, lines of one run or of several, and what is overlaid. */

import { colour, make, say, steps } from "/assets/dom.js";
import { gestures } from "/assets/gestures.js";
import { MarkLane } from "/assets/marks.js";
import { aligned } from "/assets/store.js";

const { format, power, logTicks } = foreshockAxes;
const ALARMED = ["probability", "ratio", "noise"]; // charts of what alarms are made of
const AXIS = 58, SHOWN = 6, RUN_COLOURS = 10;

export const runColour = (number) => colour(`run-${number % RUN_COLOURS}`);

/** One chart and its figure. `page` gives the runs to draw, the window, the marks, and takes what is asked. */
export class Chart {
  constructor(style, page) {
    this.style = style;
    this.page = page;
    this.legend = make("p", { class: "legend" });
    this.place = make("div", { class: "plot", tabindex: 0, role: "group", "aria-roledescription": "chart", "aria-label": style.title });
    this.lane = style.id === "loss" ? new MarkLane(page) : null;
    this.figure = make("figure", { "data-chart": style.id, class: style.id === "loss" ? "wide" : null },
      make("figcaption", {},
        make("h3", {}, style.title),
        make("details", {}, make("summary", { "aria-label": `What ${style.title} shows` }, "?"), make("p", {}, style.caption))),
      this.legend, this.lane?.element, this.place);
    this.plot = null;
    this.key = "";
    this.visible = this.due = false;
    // What is out of sight is drawn when it comes into sight: a page that moves must not cost a core.
    new IntersectionObserver(([{ isIntersecting }]) => {
      this.visible = isIntersecting;
      if (isIntersecting && this.due) this.draw();
    }, { rootMargin: "150px" }).observe(this.figure);
    gestures(this, page);
    new ResizeObserver(() => this.resize()).observe(this.place);
  }

  /** Draw the runs in view; lines are made anew only if there are others. */
  draw() {
    // The run in front is drawn last, on top of the others.
    const runs = this.page.shown().filter((run) => this.page.store.columns(run.id, this.style.id)?.[0].length).reverse();
    this.figure.hidden = runs.length === 0;
    this.due = !this.visible;
    if (!runs.length || this.due) return;
    const many = runs.length > 1;
    // Of several runs only the first line of a chart is drawn: more could not be told apart.
    const parts = runs.map((run) => {
      const columns = this.page.store.columns(run.id, this.style.id);
      return many ? columns.slice(0, 2) : columns;
    });
    this.log = this.style.log && parts.every(([, ...ys]) => ys.every((y) => y.every((v) => !(v < 0))));
    this.lines = many
      ? runs.map((run) => ({ label: run.short ?? run.label, stroke: runColour(run.number), front: run.id === this.page.front }))
      : this.style.lines.map((line) => ({ label: line.label, stroke: colour(line.role), front: true }));
    const data = aligned(parts, this.log);
    const key = JSON.stringify([this.lines, this.log]);
    if (!this.plot || key !== this.key) this.build(data);
    else this.plot.setData(data, false);
    this.key = key;
    this.move();
  }

  build(data) {
    this.plot?.destroy();
    const common = {
      stroke: colour("soft"), font: "11.5px system-ui, sans-serif",
      grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false },
    };
    const y = { ...common, size: AXIS, values: (u, ticks) => ticks.map(this.log ? power : format) };
    if (this.log) Object.assign(y, { splits: logTicks, filter: (u, ticks) => ticks });
    const marks = { id: this.style.id, fans: [], threshold: null, marked: this.lines.length > 1 ? this.lines.length : 1, marks: this.style.id === "loss" ? "labelled" : "plain" };
    const hooks = foreshockOverlays.hooks(marks, this.page.marks, colour);
    hooks.draw.push((u) => this.edge(u));
    if (ALARMED.includes(this.style.id)) hooks.draw.push((u) => this.alarms(u));
    hooks.setSelect = [(u) => this.selected(u)];
    hooks.setCursor = [() => this.tell()];
    hooks.setSize = [(u) => this.lane?.draw(u)];
    this.plot = new uPlot({
      width: this.width(), height: this.height(), padding: [8, 10, 0, 0], hooks,
      series: [{}, ...this.lines.map((line) => ({
        stroke: line.stroke, width: line.front ? 1.6 : 1, alpha: line.front ? 1 : 0.55, points: { size: 4 },
      }))],
      axes: [{ ...common, size: 26, gap: 4, values: (u, ticks) => ticks.map((t) => (Number.isInteger(t) ? t.toLocaleString("en") : "")) }, y],
      scales: {
        x: { time: false, range: () => this.page.window() },
        y: { distr: this.log ? 3 : 1, range: (u, min, max) => this.limits(min, max) },
      },
      cursor: {
        y: false, drag: { x: true, y: false, setScale: false }, focus: { prox: -1 },
        sync: { key: "foreshock", scales: ["x", null], filters: { pub: followed, sub: followed } },
        bind: { dblclick: () => () => this.page.show(null) },
      },
      legend: { show: false },
    }, data, this.place);
    this.tell();
    this.lane?.draw(this.plot);
  }

  /** Let the axes follow the window. */
  move() {
    if (!this.visible) this.due = true;
    if (!this.plot || this.figure.hidden || this.due) return;
    const [min, max] = this.page.window();
    this.plot.setScale("x", { min, max });
    this.lane?.draw(this.plot);
    this.tell();
  }

  limits(min, max) {
    const { limits } = this.style, { threshold } = this.edged();
    if (limits) return limits;
    if (min == null) [min, max] = this.log ? [0.1, 1] : [0, 1];
    if (threshold !== null && this.style.id !== "lag") [min, max] = [Math.min(min, threshold), Math.max(max, threshold)];
    const above = this.style.id === "loss" ? 0.2 : 0.08;
    if (this.log) {
      const factor = Math.min(Math.max(max / min, 1.05), 1e15);
      return [min / factor ** 0.06, Math.min(max * factor ** above, Number.MAX_VALUE)];
    }
    const span = max - min || Math.abs(max) || 1;
    return [min - 0.06 * span, max + above * span];
  }

  /** The horizontal line: that of alarms is the run's own. */
  edged() {
    const { id, threshold, edge } = this.style;
    const alarm = this.page.list.runs.get(this.page.front)?.alarm_at;
    return id === "probability" && typeof alarm === "number" ? { threshold: alarm, edge: "alarm" } : { threshold, edge };
  }

  edge(u) {
    const { threshold, edge } = this.edged();
    if (threshold === null) return;
    const { ctx, bbox } = u, px = uPlot.pxRatio, at = Math.round(u.valToPos(threshold, "y", true)) + 0.5;
    if (at < bbox.top || at > bbox.top + bbox.height) return;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("spike");
    ctx.lineWidth = px;
    ctx.setLineDash([2 * px, 3 * px]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, at);
    ctx.lineTo(bbox.left + bbox.width, at);
    ctx.stroke();
    ctx.font = `${11 * px}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = at - bbox.top < 16 * px ? "top" : "bottom";
    const place = [edge, bbox.left + 6 * px, at + (ctx.textBaseline === "top" ? 2 : -2) * px];
    ctx.setLineDash([]);
    ctx.strokeStyle = colour("paper");
    ctx.lineWidth = 4 * px;
    ctx.strokeText(...place); // readable where a line passes below it
    ctx.fillText(...place);
    ctx.restore();
  }

  /** A line at each alarm; a dashed one where it was a watch. */
  alarms(u) {
    const { ctx, bbox } = u, px = uPlot.pxRatio, [from, to] = this.page.window();
    ctx.save();
    ctx.strokeStyle = colour("forecast");
    ctx.lineWidth = px;
    for (const { step, label } of this.page.details?.marks.alarms ?? []) {
      if (step < from || step > to) continue;
      const x = Math.round(u.valToPos(step, "x", true)) + 0.5;
      ctx.setLineDash(label === "watch" ? [2 * px, 4 * px] : []);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  selected(u) {
    const { left, width } = u.select;
    if (width > 3) this.page.show([u.posToVal(left, "x"), u.posToVal(left + width, "x")]);
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  }

  /** Say the values under the cursor, or the last ones in view. */
  tell() {
    if (!this.plot) return;
    const { data, cursor } = this.plot, x = data[0];
    const [min, max] = this.page.window();
    let at = cursor.idx;
    if (at == null) for (at = x.length - 1; at > 0 && x[at] > max; at--);
    const value = (column) => {
      // Of several runs only one has a point at just this step: the last before it speaks for the others.
      for (let i = at; i >= 0 && x[i] >= min; i--) if (column[i] !== undefined) return column[i];
      return null;
    };
    const all = this.lines.map((line, i) => [line, value(data[i + 1])]);
    const entries = all.sort((a, b) => b[0].front - a[0].front).slice(0, SHOWN);
    const left = this.lines.length - entries.length;
    this.legend.replaceChildren(
      make("span", { class: "at" }, x.length ? `step ${steps(x[at] ?? 0)}` : ""),
      ...entries.map(([line, shown]) => {
        const swatch = make("i");
        swatch.style.background = line.stroke;
        return make("span", { class: "entry" }, swatch, make("b", {}, line.label), make("span", { class: "value" }, shown == null ? "–" : format(shown)));
      }),
      ...(left > 0 ? [make("span", { class: "entry" }, `and ${left} more`)] : []));
  }

  width() {
    return Math.max(this.place.clientWidth, 120);
  }

  height() {
    return this.style.id === "loss" ? 260 : 180;
  }

  resize() {
    if (this.plot && this.place.clientWidth && this.plot.width !== this.width()) this.plot.setSize({ width: this.width(), height: this.height() });
  }

  /** Draw anew from the start: another theme has other colours. */
  repaint() {
    this.key = "";
    this.due = true;
    this.draw();
  }
}

const followed = (type) => type !== "mousedown" && type !== "mouseup" && type !== "dblclick";
