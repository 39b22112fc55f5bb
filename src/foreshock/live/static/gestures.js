/* Zooming and moving by keyboard, wheel and touch; dragging with a mouse is uPlot's own. */

/** Let a chart be operated. All charts move together: `page.show` takes the window. */
export function gestures(chart, page) {
  const { place } = chart;
  place.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !chart.plot) return;
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    step(chart.plot, (event.key === "ArrowRight" ? 1 : -1) * (event.shiftKey ? 10 : 1));
  });
  place.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the page
    event.preventDefault();
    zoom(page, Math.exp(event.deltaY * 0.004), stepAt(chart, event.clientX));
  }, { passive: false });
  touch(chart, page);
}

/** Zoom by a factor around a step; below 1 fewer steps are shown. */
export function zoom(page, factor, around) {
  const [from, to] = page.window();
  const middle = around ?? page.cursorStep() ?? (from + to) / 2;
  page.show([middle - (middle - from) * factor, middle + (to - middle) * factor]);
}

/** Move the window by a share of its width. */
export function pan(page, share) {
  const [from, to] = page.window(), [first, last] = page.whole();
  const by = Math.min(Math.max(share * (to - from), first - from), last - to);
  page.show([from + by, to + by]);
}

function stepAt(chart, clientX) {
  const { left } = chart.plot.over.getBoundingClientRect();
  return chart.plot.posToVal(clientX - left, "x");
}

/** Move the cursor by so many points that are in view. */
function step(plot, by) {
  const x = plot.data[0], { min, max } = plot.scales.x;
  let first = 0, last = x.length - 1;
  while (first < last && x[first] < min) first++;
  while (last > first && x[last] > max) last--;
  const at = plot.cursor.idx == null ? (by > 0 ? first : last) : plot.cursor.idx + by;
  const index = Math.min(Math.max(at, first), last);
  plot.setCursor({ left: plot.valToPos(x[index], "x"), top: plot.over.clientHeight / 2 });
}

/** Two fingers zoom, one moves sideways; up and down scrolls the page. */
function touch(chart, page) {
  const fingers = new Map();
  let begun = null;

  const begin = () => {
    begun = fingers.size ? { window: page.window(), at: [...fingers.values()].slice(0, 2) } : null;
  };
  const down = (event) => {
    if (event.pointerType !== "touch" || !chart.plot) return;
    fingers.set(event.pointerId, event.clientX);
    begin();
  };
  const move = (event) => {
    if (!fingers.has(event.pointerId) || !begun || !chart.plot) return;
    fingers.set(event.pointerId, event.clientX);
    const { left, width } = chart.plot.over.getBoundingClientRect();
    const [from, to] = begun.window, span = to - from;
    const at = (x) => from + ((x - left) / width) * span; // the step that was under the finger when it came down
    const now = [...fingers.values()].slice(0, 2);
    if (now.length === 2 && begun.at.length === 2) {
      const [a, b] = begun.at.map(at);
      const [p, q] = now.map((x) => (x - left) / width);
      if (Math.abs(p - q) < 0.02 || a === b) return;
      // The window in which both steps are under their fingers again.
      const wide = Math.abs((b - a) / (q - p));
      page.show([a - p * wide, a - p * wide + wide]);
    } else if (page.isZoomed() && Math.abs(now[0] - begun.at[0]) > 4) {
      const by = -((now[0] - begun.at[0]) / width) * span;
      const [first, last] = page.whole();
      const kept = Math.min(Math.max(by, first - from), last - to);
      page.show([from + kept, to + kept]);
    }
  };
  const up = (event) => {
    if (fingers.delete(event.pointerId)) begin();
  };
  chart.place.addEventListener("pointerdown", down);
  chart.place.addEventListener("pointermove", move);
  for (const end of ["pointerup", "pointercancel", "pointerleave"]) chart.place.addEventListener(end, up);
}
