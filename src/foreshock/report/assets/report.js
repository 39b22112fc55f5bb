/* Draws the charts of each run from the JSON beside them, and those of all runs from the same. */
"use strict";

(() => {
  const FAR = 1e5, RUN_COLOURS = 10;
  const { Panel, colour, limits } = foreshockPanel;
  const { format } = foreshockAxes;
  const body = document.body;

  /** The highest visible value of the series that decides, or the fixed limits of the whole run. */
  function followed(u, chart, whole) {
    const [from, to] = u.series[0].idxs ?? [0, -1];
    const seen = whole ? [] : u.data[chart.follows + 1].slice(from, to + 1).filter((v) => v != null);
    const top = Math.max(0, ...seen);
    return top > 0 ? [0, 1.3 * top] : chart.range;
  }

  /** The charts of one run, or of several that are shifted to their spikes. */
  function ofRun(root, key, run) {
    const panel = new Panel(root, key, run.range, () => run.charts.map((chart) => {
      const far = (s) => s.role === "forecast" || s.role === "bound";
      const lines = chart.series.map((s) => ({
        label: s.label, stroke: colour(s.role), width: s.role === "bound" ? 0.5 : 1.5, spanGaps: chart.spans === true,
        value: (u, v, si, idx) => (idx == null ? "" : far(s) && s.values[idx] >= 1e9 ? "never" : format(s.values[idx])),
      }));
      const values = chart.series.map((s) =>
        far(s) ? s.values.map((v) => (v == null ? v : Math.min(v, FAR))) : s.values);
      return {
        chart, lines, data: [chart.x, ...values],
        hooks: foreshockOverlays.hooks(chart, run.marks, colour),
        bands: chart.band ? [{ series: chart.band.map((i) => i + 1), fill: `color-mix(in srgb, ${colour("forecast")} 22%, transparent)` }] : [],
        range: (c, min, max, u) => (c.follows === null ? limits(c, min, max) : followed(u, c, panel.whole())),
      };
    }), run.view);
    return panel;
  }

  /** Columns over the steps of all: undefined where a run has no point, null where it has a gap. */
  function merged(parts) {
    const steps = [...new Set(parts.flatMap((part) => part.x))].sort((a, b) => a - b);
    const place = new Map(steps.map((step, i) => [step, i]));
    return [steps, ...parts.map(({ x, values }) => {
      const column = new Array(steps.length).fill(undefined);
      // Of two records of one step the higher is drawn: no spike is hidden.
      x.forEach((step, i) => { const at = place.get(step); if (!(column[at] > values[i])) column[at] = values[i]; });
      return column;
    })];
  }

  /** What two charts of the same kind say of their axis, as one. */
  function common(charts) {
    const clips = charts.map((chart) => chart.clip).filter(Boolean);
    return {
      ...charts[0],
      log: charts.every((chart) => chart.log),
      clip: clips.length ? [Math.min(...clips.map((c) => c[0])), Math.max(...clips.map((c) => c[1]))] : null,
      threshold: charts.every((chart) => chart.threshold === charts[0].threshold) ? charts[0].threshold : null,
    };
  }

  /** The charts that all runs are overlaid in: of each the first line, in the colour of its run. */
  function ofAll(root, runs) {
    const ends = runs.map((run) => run.range);
    const range = [Math.min(...ends.map((end) => end[0])), Math.max(...ends.map((end) => end[1]))];
    const ids = [...root.querySelectorAll("[data-chart]")].map((figure) => figure.dataset.chart);
    return new Panel(root, "overlaid", range, () => ids.map((id) => {
      const found = runs.flatMap((run) => run.charts.filter((chart) => chart.id === id).map((chart) => ({ run, chart })));
      const data = merged(found.map(({ chart }) => ({ x: chart.x, values: chart.series[0].values })));
      const lines = found.map(({ run }) => ({
        label: run.label, stroke: colour(`run-${run.number % RUN_COLOURS}`),
        dash: run.number < RUN_COLOURS ? undefined : [6, 3],
        value: (u, v, si, idx) => {
          // Only one run has a point at just this step: the last before it speaks for the others.
          while (idx > 0 && data[si][idx] === undefined) idx--;
          return idx == null ? "" : format(data[si][idx]);
        },
      }));
      const chart = common(found.map((one) => one.chart));
      return { chart, lines, data, hooks: foreshockOverlays.compared(chart, found.map(({ run }) => run.marks), lines, colour) };
    }));
  }

  const read = (root) => JSON.parse(root.querySelector("script.data").textContent);
  const roots = [...document.querySelectorAll(".run .charts")];
  const data = roots.map((root) => {
    const number = Number(root.closest(".run").id.slice("run-".length)) - 1;
    return { ...read(root), number };
  });
  const runs = roots.map((root, i) => ofRun(root, `run-${data[i].number}`, data[i]));
  const shifted = document.querySelector("#comparison .charts");
  const aligned = shifted ? ofRun(shifted, "aligned", read(shifted)) : null;
  const together = document.getElementById("overlaid");
  const all = together ? ofAll(together, data) : null;
  const panels = [...runs, all, aligned].filter(Boolean);

  function view(name) {
    body.dataset.view = name;
    for (const button of document.querySelectorAll(".views button"))
      button.setAttribute("aria-pressed", String(button.dataset.view === name));
    for (const panel of panels) panel.resize();
  }
  for (const button of document.querySelectorAll(".views button"))
    button.addEventListener("click", () => view(button.dataset.view));

  for (const button of document.querySelectorAll(".goto"))
    button.addEventListener("click", () => {
      const own = runs[roots.findIndex((root) => root.closest(".run").contains(button))];
      const panel = own.hidden() ? all : own;
      panel.show([Number(button.dataset.from), Number(button.dataset.to)]);
      panel.root.scrollIntoView();
    });

  const redraw = () => panels.forEach((panel) => panel.draw());
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  const folded = [];
  window.addEventListener("beforeprint", () => {
    document.documentElement.dataset.print = "";
    folded.push(...document.querySelectorAll("details.more:not([open])"));
    for (const one of folded) one.open = true;
    redraw();
  });
  window.addEventListener("afterprint", () => {
    delete document.documentElement.dataset.print;
    for (const one of folded.splice(0)) one.open = false;
    redraw();
  });
  window.foreshockRuns = runs;
  window.foreshockOverlaid = all;
  window.foreshockAligned = aligned;

  // Not every browser opens a closed <details> for a link into it.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.term");
    if (link) document.querySelector(link.hash).closest("details").open = true;
  });
})();
