/* The numbers of the runs in view: whole runs grow at their end, a window is fetched when it is looked at. */

import { ask } from "/assets/dom.js";

const AT_ONCE = 20; // runs in one request

/** Headers and numbers of one answer: see `packed` in views.py. */
function unpacked(buffer) {
  const size = new DataView(buffer).getUint32(0, true);
  const headers = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  let place = 4 + size;
  for (const header of headers)
    for (const chart of header.charts) {
      chart.columns = [];
      for (let i = 0; i <= chart.lines; i++) {
        chart.columns.push(new Float64Array(buffer, place, chart.points));
        place += 8 * chart.points;
      }
    }
  return headers;
}

function joined(before, after) {
  const found = new Float64Array(before.length + after.length);
  found.set(before);
  found.set(after, before.length);
  return found;
}

/** What is held of one run in one window: columns by chart, and how many rows of the log they cover. */
class Held {
  constructor(key) {
    this.key = key;
    this.version = -1;
    this.generation = null;
    this.rows = {};
    this.data = {};
  }

  take(header, most) {
    const anew = header.generation !== this.generation;
    if (anew) { this.data = {}; this.rows = {}; }
    this.generation = header.generation;
    for (const { id, rows, columns } of header.charts) {
      const before = this.rows[id] > 0 ? this.data[id] : null;
      this.data[id] = before ? before.map((column, i) => joined(column, columns[i])) : columns;
      this.rows[id] = rows;
      // So that a page that is left open does not grow for ever: fetched anew, in few points, next time.
      if (this.data[id][0].length > most) this.rows[id] = 0;
    }
  }
}

export class Store {
  constructor(redraw) {
    this.redraw = redraw;
    this.held = new Map();
    this.busy = this.again = false;
    this.wanted = null;
  }

  /** Columns of a chart of a run: steps first. Undefined if there are none yet. */
  columns(id, chart) {
    return this.held.get(id)?.data[chart];
  }

  /** See to it that what is in view is held: runs (statuses), names of charts, a window or null, points. */
  want(wanted) {
    this.wanted = wanted;
    this.fetch();
  }

  async fetch() {
    if (this.busy) { this.again = true; return; }
    this.busy = true;
    try {
      do {
        this.again = false;
        await this.round(this.wanted);
      } while (this.again);
    } catch (error) {
      if (!(error instanceof TypeError) && !/: (403|5..)$/.test(error.message)) throw error;
    } finally {
      this.busy = false; // the server may be gone: the next change that the stream announces asks again
    }
  }

  async round({ runs, charts, window, points }) {
    const key = window ? window.join() : "whole";
    const asked = [];
    for (const run of runs) {
      let held = this.held.get(run.id);
      if (!held || held.key !== key) {
        const fresh = new Held(key);
        // Until the window has come, what was there before is drawn.
        if (held) fresh.data = held.data;
        held = fresh;
        this.held.set(run.id, held);
      }
      if (held.version !== run.version || charts.some((chart) => !(chart in held.data)))
        asked.push({ run, held, since: window ? {} : held.rows });
    }
    for (let i = 0; i < asked.length; i += AT_ONCE) {
      const part = asked.slice(i, i + AT_ONCE);
      const q = JSON.stringify({
        runs: part.map(({ run, held, since }) => ({ id: run.id, generation: held.generation, since })),
        charts, points, within: window,
      });
      const headers = unpacked(await (await ask("/api/series", { q })).arrayBuffer());
      for (const header of headers) {
        const { run, held } = part.find((one) => one.run.id === header.id);
        if (window) held.rows = {};
        held.take(header, 3 * points + 4000);
        held.version = run.version;
      }
    }
    if (asked.length) this.redraw();
  }

  forget(id) {
    this.held.delete(id);
  }
}

/** Columns of several runs over one axis: undefined where a run has no point, null where it has no value. */
export function aligned(parts, log) {
  const plain = (value) => (Number.isFinite(value) && !(log && value <= 0) ? value : null);
  if (parts.length === 1) {
    const [x, ...ys] = parts[0];
    return [Array.from(x), ...ys.map((y) => Array.from(y, plain))];
  }
  let all = new Float64Array(parts.reduce((n, [x]) => n + x.length, 0));
  let place = 0;
  for (const [x] of parts) { all.set(x, place); place += x.length; }
  all.sort();
  all = all.filter((value, i) => i === 0 || value !== all[i - 1]);
  const found = [Array.from(all)];
  for (const [x, ...ys] of parts)
    for (const y of ys) {
      const column = new Array(all.length).fill(undefined);
      let at = 0;
      for (let i = 0; i < x.length; i++) {
        while (all[at] < x[i]) at++;
        // Of two records of one step the higher is drawn: no spike is hidden.
        const value = plain(y[i]);
        if (!(column[at] > value)) column[at] = value;
      }
      found.push(column);
    }
  return found;
}
