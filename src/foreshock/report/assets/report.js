/* Draws each run's charts from the JSON beside them; cursor and zoom are shared within a run. */
"use strict";

(() => {
  const HEIGHT = 210, AXIS = 64, FAR = 1e5;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const colour = (role) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${role}`).trim();

  const { format, power, logTicks } = foreshockAxes;

  /** The highest visible value of the series that decides, or the fixed limits of the whole run. */
  function followed(u, chart, whole) {
    const [from, to] = u.series[0].idxs ?? [0, -1];
    const seen = whole ? [] : u.data[chart.follows + 1].slice(from, to + 1).filter((v) => v != null);
    const top = Math.max(0, ...seen);
    return top > 0 ? [0, 1.3 * top] : chart.range;
  }

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
      const factor = Math.max(max / min, 1.05);
      return [min / factor ** 0.06, max * factor ** above];
    }
    const span = max - min || Math.abs(max) || 1;
    return [min - 0.06 * span, max + above * span];
  }

  function series(chart) {
    const far = (s) => s.role === "forecast" || s.role === "bound";
    const values = chart.series.map((s) =>
      far(s) ? s.values.map((v) => (v == null ? v : Math.min(v, FAR))) : s.values);
    const options = chart.series.map((s, i) => ({
      label: s.label,
      stroke: colour(s.role),
      width: s.role === "bound" ? 0.5 : 1.5,
      value: (u, v, si, idx) => (idx == null ? "" : far(s) && s.values[idx] >= 1e9 ? "never" : format(s.values[idx])),
      points: { size: 4 },
      spanGaps: chart.spans === true,
    }));
    return { data: [chart.x, ...values], options: [{ label: chart.along ?? "step", value: (u, v) => (v == null ? "" : v.toLocaleString("en")) }, ...options] };
  }

  function axes(chart) {
    const common = {
      stroke: colour("soft"),
      font: "11.5px system-ui, sans-serif",
      grid: { stroke: colour("grid"), width: 1 },
      ticks: { show: false },
    };
    const y = { ...common, size: AXIS, values: (u, ticks) => ticks.map(chart.log ? power : format) };
    if (chart.log) Object.assign(y, { splits: logTicks, filter: (u, ticks) => ticks });
    return [{ ...common, size: 26, gap: 4, values: (u, ticks) => ticks.map((t) => t.toLocaleString("en")) }, y];
  }

  class RunCharts {
    constructor(root, index) {
      this.root = root;
      this.key = `run-${index}`;
      this.data = JSON.parse(root.querySelector("script.data").textContent);
      this.zoom = this.data.view ?? this.data.range;
      root.querySelector(".reset").hidden = this.whole();
      this.plots = [];
      this.draw();
      new ResizeObserver(() => this.resize()).observe(root);
      root.querySelector(".reset").addEventListener("click", () => this.show(this.data.range));
      for (const button of root.closest(".run").querySelectorAll(".goto"))
        button.addEventListener("click", () => {
          this.show([Number(button.dataset.from), Number(button.dataset.to)]);
          root.scrollIntoView();
        });
    }

    draw() {
      for (const plot of this.plots) plot.destroy();
      this.plots = this.data.charts.map((chart) => this.plot(chart));
    }

    plot(chart) {
      const figure = this.root.querySelector(`[data-chart="${chart.id}"]`);
      const legend = figure.querySelector(".legend");
      legend.replaceChildren();
      const { data, options } = series(chart);
      const hooks = foreshockOverlays.hooks(chart, this.data.marks, colour);
      hooks.setSelect = [(u) => this.selected(u)];
      const follows = (type) => type !== "mousedown" && type !== "mouseup" && type !== "dblclick";
      const plot = new uPlot({
        width: this.width(), height: HEIGHT, series: options, axes: axes(chart), hooks,
        padding: [8, 12, 0, 0],
        scales: {
          x: { time: false, range: () => this.zoom },
          y: { distr: chart.log ? 3 : 1, range: (u, min, max) => (chart.follows === null ? limits(chart, min, max) : followed(u, chart, this.whole())) },
        },
        bands: chart.band ? [{ series: chart.band.map((i) => i + 1), fill: `color-mix(in srgb, ${colour("forecast")} 22%, transparent)` }] : [],
        cursor: {
          y: false, drag: { x: true, y: false, setScale: false },
          sync: { key: this.key, scales: ["x", null], filters: { pub: follows, sub: follows } },
          bind: { dblclick: () => () => this.show(this.data.range) },
        },
        legend: { live: true, mount: (u, el) => legend.append(el) },
      }, data, figure.querySelector(".plot"));
      return plot;
    }

    selected(u) {
      const { left, width } = u.select;
      if (width > 3) this.show([u.posToVal(left, "x"), u.posToVal(left + width, "x")]);
      u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    }

    whole() {
      return this.zoom.every((v, i) => v === this.data.range[i]);
    }

    show([from, to]) {
      this.zoom = [Math.max(from, this.data.range[0]), Math.min(to, this.data.range[1])];
      this.root.querySelector(".reset").hidden = this.whole();
      for (const plot of this.plots) plot.setScale("x", { min: this.zoom[0], max: this.zoom[1] });
    }

    width() {
      return this.root.clientWidth;
    }

    resize() {
      for (const plot of this.plots)
        if (plot.width !== this.width()) plot.setSize({ width: this.width(), height: HEIGHT });
    }
  }

  const runs = [...document.querySelectorAll(".charts")].map((root, i) => new RunCharts(root, i));
  const redraw = () => runs.forEach((run) => run.draw());
  dark.addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => { document.documentElement.dataset.print = ""; redraw(); });
  window.addEventListener("afterprint", () => { delete document.documentElement.dataset.print; redraw(); });
  window.foreshockRuns = runs;

  // Not every browser opens a closed <details> for a link into it.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.term");
    if (link) document.querySelector(link.hash).closest("details").open = true;
  });
})();
