/* What is drawn on top of the lines: spikes, warnings, alarms without a spike, a guard's actions, thresholds, fans. */
"use strict";

const foreshockOverlays = (() => {
  const ALPHA = { spike: 0.13, forecast: 0.13, quiet: 0.16, fan: 0.22 };

  /** Run `draw(ctx, x, y)` clipped to the plot; x and y turn values into canvas pixels. */
  function clipped(u, draw) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    draw(ctx, (v) => u.valToPos(v, "x", true), (v) => u.valToPos(v, "y", true));
    ctx.restore();
  }

  function column(u, ctx, x, [from, to], colour, alpha) {
    const left = x(from);
    ctx.globalAlpha = alpha;
    ctx.fillStyle = colour;
    ctx.fillRect(left, u.bbox.top, Math.max(x(to) - left, uPlot.pxRatio * 1.5), u.bbox.height);
    ctx.globalAlpha = 1;
  }

  function shade(u, marks, colour, warnings) {
    clipped(u, (ctx, x) => {
      if (warnings) for (const alarm of marks.falseAlarms)
        column(u, ctx, x, [alarm.start, alarm.end], colour("quiet"), ALPHA.quiet);
      if (warnings) for (const alarm of marks.answered)
        column(u, ctx, x, [alarm.start, alarm.end], colour("guard"), ALPHA.quiet);
      for (const spike of marks.spikes) {
        if (warnings && spike.announced !== null)
          column(u, ctx, x, [spike.announced, spike.onset], colour("forecast"), ALPHA.forecast);
        column(u, ctx, x, [spike.onset, spike.end], colour("spike"), ALPHA.spike);
      }
      // Several runs on one chart are shifted so that this is where each of them spikes.
      if (marks.zero) column(u, ctx, x, [0, 0], colour("spike"), 0.6);
    });
  }

  /** A stroke at the foot of the plot for each stretch of steps on which a guard acted. */
  function strokes(u, actions, colour) {
    const high = 9 * uPlot.pxRatio;
    clipped(u, (ctx, x) => {
      ctx.fillStyle = colour;
      for (const [from, to] of actions) {
        const left = x(from);
        ctx.fillRect(left, u.bbox.top + u.bbox.height - high, Math.max(x(to) - left, uPlot.pxRatio * 1.5), high);
      }
    });
  }

  function fan(ctx, x, y, f, colour) {
    const apex = [x(f.step), y(f.ratio)], edge = y(1);
    ctx.globalAlpha = ALPHA.fan;
    ctx.fillStyle = colour;
    ctx.beginPath();
    ctx.moveTo(...apex);
    ctx.lineTo(x(f.low), edge);
    ctx.lineTo(x(f.high), edge);
    ctx.fill();
    ctx.globalAlpha = 1;
    ctx.strokeStyle = ctx.fillStyle = colour;
    ctx.lineWidth = 1.4 * uPlot.pxRatio;
    ctx.setLineDash([5 * uPlot.pxRatio, 3 * uPlot.pxRatio]);
    ctx.beginPath();
    ctx.moveTo(...apex);
    ctx.lineTo(x(f.expected), edge);
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.beginPath();
    ctx.arc(...apex, 2.6 * uPlot.pxRatio, 0, 7);
    ctx.fill();
  }

  function threshold(u, value, colour, label) {
    clipped(u, (ctx, x, y) => {
      const at = Math.round(y(value)) + 0.5;
      ctx.strokeStyle = ctx.fillStyle = colour;
      ctx.lineWidth = uPlot.pxRatio;
      ctx.setLineDash([2 * uPlot.pxRatio, 3 * uPlot.pxRatio]);
      ctx.beginPath();
      ctx.moveTo(u.bbox.left, at);
      ctx.lineTo(u.bbox.left + u.bbox.width, at);
      ctx.stroke();
      if (!label) return;
      ctx.font = `${11 * uPlot.pxRatio}px system-ui, sans-serif`;
      ctx.textAlign = "left";
      ctx.textBaseline = "bottom";
      ctx.fillText(label, u.bbox.left + 6 * uPlot.pxRatio, at - 2 * uPlot.pxRatio);
    });
  }

  /** Mark each peak of a line with a triangle and its height, the highest first, as far as the labels don't overlap. */
  function peaks(u, spikes, colour, lineOf, taken = []) {
    const px = uPlot.pxRatio;
    const heights = spikes.map((spike) => lineOf(u)[u.valToIdx(spike.peak)] ?? Infinity);
    const order = spikes.map((spike, i) => i).sort((a, b) => heights[b] - heights[a]);
    clipped(u, (ctx, x, y) => {
      ctx.fillStyle = colour;
      ctx.font = `600 ${11 * px}px system-ui, sans-serif`;
      ctx.textAlign = "center";
      ctx.textBaseline = "bottom";
      ctx.lineJoin = "round";
      ctx.lineWidth = 3 * px;
      ctx.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--paper");
      for (const i of order) {
        const spike = spikes[i];
        const left = x(spike.peak);
        const top = Math.max(isFinite(heights[i]) ? y(heights[i]) - 3 * px : 0, u.bbox.top + 20 * px);
        ctx.beginPath();
        ctx.moveTo(left, top);
        ctx.lineTo(left - 4 * px, top - 6 * px);
        ctx.lineTo(left + 4 * px, top - 6 * px);
        ctx.fill();
        const half = ctx.measureText(spike.label).width / 2 + 3 * px;
        // Not beyond the ends of the chart, where it would be cut off; legible where lines pass behind it.
        const middle = Math.max(Math.min(left, u.bbox.left + u.bbox.width - half), u.bbox.left + half);
        const near = ([from, to, high]) => middle + half > from && middle - half < to && Math.abs(top - high) < 14 * px;
        if (taken.some(near) || left < u.bbox.left || left > u.bbox.left + u.bbox.width) continue;
        ctx.strokeText(spike.label, middle, top - 7 * px);
        ctx.fillText(spike.label, middle, top - 7 * px);
        taken.push([middle - half, middle + half, top]);
      }
    });
  }

  /** Hooks that draw a chart's overlays under and over its lines. */
  function hooks(chart, marks, colour) {
    return {
      drawAxes: [(u) => {
        shade(u, marks, colour, chart.marks !== "spikes");
        clipped(u, (ctx, x, y) => chart.fans.forEach((f) => fan(ctx, x, y, f, colour("forecast"))));
      }],
      draw: [(u) => {
        const words = chart.id === "ratio" || chart.id === "directions" ? "threshold 2/η" : "";
        if (chart.threshold !== null) threshold(u, chart.threshold, colour("spike"), words);
        if (chart.marks === "labelled") strokes(u, marks.actions, colour("guard"));
        if (chart.marks === "labelled") peaks(u, marks.spikes, colour("spike"), (plot) => plot.data[chart.marked ?? 1]);
      }],
    };
  }

  /** Hooks that draw over the lines of several runs: each run's peaks in its own colour. */
  function compared(chart, marks, lines, colour) {
    return {
      draw: [(u) => {
        if (chart.threshold !== null) threshold(u, chart.threshold, colour("spike"), chart.id === "ratio" ? "threshold 2/η" : "");
        const taken = []; // no label is written over that of another run
        if (chart.marks === "labelled") lines.forEach((line, i) => {
          if (u.series[i + 1].show) peaks(u, marks[i].spikes, line.stroke, (plot) => plot.data[i + 1], taken);
        });
      }],
    };
  }

  return { compared, hooks };
})();
