/* Charts that share one cursor and one zoom: those of a run, or those that several runs are overlaid in. */
"use strict";

const foreshockPanel = (() => {
  const HEIGHT = 210, AXIS = 64, PAPER = 680; // px; the last is the width of a printed chart
  const { format, power, logTicks } = foreshockAxes;
  const follows = (type) => type !== "mousedown" && type !== "mouseup" && type !== "dblclick";
  const printing = () => document.documentElement.dataset.print !== undefined;
  /** A printer has more dots than a screen: what is printed is drawn twice as large, and shown at half the size. */
  const scale = () => (printing() ? 2 : 1);

  const colour = (role) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${role}`).trim();

  /** The limits of a y axis that holds the values from min to max, the threshold, and room for marks. */
  function limits(chart, min, max) {
    if (chart.range) return chart.range;
    if (min == null) [min, max] = chart.log ? [0.1, 1] : [0, 1];
    if (chart.threshold !== null && chart.id !== "lag") {
      min = Math.min(min, chart.threshold);
      max = Math.max(max, chart.threshold);
    }
    if (chart.clip && chart.clip[0] < max && min < chart.clip[1])
      [min, max] = [Math.max(min, chart.clip[0]), Math.min(max, chart.clip[1])];
    const above = chart.marks === "labelled" ? 0.2 : 0.08;
    if (chart.log) {
      const factor = Math.min(Math.max(max / min, 1.05), 1e15);
      return [min / factor ** 0.06, Math.min(max * factor ** above, Number.MAX_VALUE)];
    }
    const span = max - min || Math.abs(max) || 1;
    return [min - 0.06 * span, max + above * span];
  }

  function axes(log) {
    const times = scale();
    const common = {
      stroke: colour("soft"),
      font: `${11.5 * times}px system-ui, sans-serif`,
      grid: { stroke: colour("grid"), width: times },
      ticks: { show: false },
    };
    const y = { ...common, size: AXIS * times, values: (u, ticks) => ticks.map(log ? power : format) };
    if (log) Object.assign(y, { splits: logTicks, filter: (u, ticks) => ticks });
    const whole = (u, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tick.toLocaleString("en") : ""));
    return [{ ...common, size: 26 * times, gap: 4 * times, space: 50 * times, values: whole }, y];
  }

  class Panel {
    /** `plan` returns what to draw when it is to be drawn: a list of what `make` takes; `zoom` is in view at first. */
    constructor(root, key, range, plan, zoom = range) {
      Object.assign(this, { root, key, range, plan, zoom, plots: [] });
      this.button = root.querySelector(".reset");
      this.button.hidden = this.whole();
      this.button.addEventListener("click", () => this.show(range));
      new ResizeObserver(() => this.resize()).observe(root);
      this.draw();
    }

    /** Draw everything anew; what is out of sight is drawn once it comes into sight. */
    draw() {
      for (const plot of this.plots) plot.destroy();
      this.plots = this.hidden() ? [] : this.plan().map((part) => this.make(part));
    }

    hidden() {
      return this.root.clientWidth === 0;
    }

    /** Draw one chart: its lines as uPlot's series with their data, its y axis, and what lies over and under them. */
    make({ chart, lines, data, hooks, bands = [], range = limits }) {
      const figure = this.root.querySelector(`[data-chart="${chart.id}"]`);
      const legend = figure.querySelector(".legend");
      legend.replaceChildren();
      const times = scale();
      uPlot.pxRatio = window.devicePixelRatio * times;
      const step = { label: chart.along ?? "step", value: (u, v) => (v == null ? "" : v.toLocaleString("en")) };
      return new uPlot({
        width: this.width(), height: HEIGHT * times, padding: [8 * times, 12 * times, 0, 0],
        series: [step, ...lines.map((line) => ({ points: { size: 4 * times }, ...line, width: (line.width ?? 1.5) * times }))],
        axes: axes(chart.log), bands,
        hooks: { ...hooks, setSelect: [(u) => this.selected(u)] },
        scales: {
          x: { time: false, range: () => this.zoom },
          y: { distr: chart.log ? 3 : 1, range: (u, min, max) => range(chart, min, max, u) },
        },
        cursor: {
          y: false, drag: { x: true, y: false, setScale: false }, focus: { prox: -1 },
          sync: { key: this.key, scales: ["x", null], filters: { pub: follows, sub: follows } },
          bind: { dblclick: () => () => this.show(this.range) },
        },
        legend: { live: true, mount: (u, el) => legend.append(el) },
      }, data, figure.querySelector(".plot"));
    }

    selected(u) {
      const { left, width } = u.select;
      if (width > 3) this.show([u.posToVal(left, "x"), u.posToVal(left + width, "x")]);
      u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    }

    whole() {
      return this.zoom.every((v, i) => v === this.range[i]);
    }

    show([from, to]) {
      this.zoom = [Math.max(from, this.range[0]), Math.min(to, this.range[1])];
      this.button.hidden = this.whole();
      for (const plot of this.plots) plot.setScale("x", { min: this.zoom[0], max: this.zoom[1] });
    }

    width() {
      return printing() ? PAPER * scale() : this.root.clientWidth;
    }

    resize() {
      if (this.hidden() || printing()) return;
      if (!this.plots.length) this.draw();
      for (const plot of this.plots)
        if (plot.width !== this.width()) plot.setSize({ width: this.width(), height: HEIGHT });
    }
  }

  return { Panel, colour, limits };
})();
