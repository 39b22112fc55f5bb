/* What stands around the charts in words: the verdict, numbers, what happened, tables. */

import { byId, make, say, steps } from "/assets/dom.js";
import { allMarks } from "/assets/marks.js";
import { STATES } from "/assets/runs.js";

const { format } = foreshockAxes;
const LISTED = 300; // rows of what happened: the last
const SORTS = [
  ["Spikes", ["spike", "divergence", "non-finite", "climb"]], ["Alarms", ["alarm"]], ["Guard", ["guard"]], ["Events", ["event", "misuse", "rewind", "recovery"]],
];

function ago(seconds) {
  if (seconds < 5) return "just now";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 129600 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} days ago`;
}

const shown = (value) => (typeof value === "number" ? format(value) : value ?? "–");

export class Panels {
  constructor(page) {
    this.page = page;
    this.filled = {};
    this.sorts = new Set(SORTS.slice(0, 3).flatMap(([, names]) => names).concat("misuse", "rewind", "recovery"));
    byId("sorts").append(...SORTS.map(([title, names]) => {
      const box = make("input", { type: "checkbox", onchange: () => {
        for (const name of names) if (box.checked) this.sorts.add(name); else this.sorts.delete(name);
        this.happened(true);
      } });
      box.checked = names.every((name) => this.sorts.has(name));
      return make("label", {}, box, title);
    }));
  }

  /** The verdict line and the numbers below it. */
  status(run) {
    byId("verdict").dataset.state = run.state;
    say(byId("state"), STATES[run.state] ?? run.state);
    say(byId("name"), run.label);
    say(byId("words"), `${run.words}.`);
    say(byId("advice"), run.advice);
    this.run = run;
    this.tiles();
  }

  tiles() {
    const run = this.run;
    if (!run) return;
    const of = typeof run.steps === "number" && run.steps > (run.step ?? 0) ? ` of ${steps(run.steps)}` : "";
    const found = [["step", run.step === null ? "–" : `${steps(run.step)}${of}`], ["loss", shown(run.loss)]];
    if (run.probability !== null) found.push(["probability", `${Math.round(100 * run.probability)} %`]);
    if (run.ratio !== null) found.push(["stability ratio", shown(run.ratio)]);
    if (run.speed !== null && run.speed > 0) found.push(["speed", `${format(Number(run.speed.toPrecision(2)))} steps/s`]);
    if (run.read < 1) found.push(["log read", `${Math.floor(100 * run.read)} %`]);
    else if (run.written) found.push(["last written", ago(Date.now() / 1000 - run.written)]);
    const place = byId("tiles");
    if (place.children.length !== found.length) place.replaceChildren(...found.map(() => make("div", {}, make("dt"), make("dd"))));
    found.forEach(([name, words], i) => { say(place.children[i].children[0], name); say(place.children[i].children[1], words); });
  }

  /** All that comes with the details of the run in front. */
  details(found) {
    this.tiles();
    this.happened(false);
    const pairs = (list) => list.map(([name, words]) => make("div", {}, make("dt", {}, name), make("dd", {}, words)));
    const said = found.verdict;
    byId("story").hidden = !said;
    if (said) {
      say(byId("happenedwords"), `${said.happened[0].toUpperCase()}${said.happened.slice(1)}.`);
      this.fill("sofar", found.tiles, pairs);
      this.fill("answers", [["Why", said.why], ["What to do", said.advice], ["Notes", found.notes]], (lists) => lists
        .filter(([, list]) => list.length)
        .map(([title, list]) => make("div", {}, make("h3", {}, title), make("ul", {}, ...list.map((words) => make("li", {}, words))))));
    }
    this.fill("tables", [found.tables ?? [], found.onsets], ([tables, onsets]) => tables
      .map((table, i) => (table.rows.length ? this.table(table, i === 0 ? onsets : []) : null)).filter(Boolean));
    byId("tensors").hidden = !found.tensors;
    if (found.tensors) {
      say(byId("tensorstep"), `As measured at step ${steps(found.tensors.step)}.`);
      this.fill("tensortable", found.tensors.rows, (rows) => this.tensors(rows));
    }
    this.fill("basis", found.basis, pairs);
  }

  /** Fill an element anew if what it shows is another: what a reader selected, or has the focus, stays else. */
  fill(id, value, build) {
    const key = JSON.stringify(value);
    if (this.filled[id] === key) return;
    this.filled[id] = key;
    byId(id).replaceChildren(...build(value));
  }

  table({ title, headers, rows }, onsets) {
    const cell = (row, i) => (onsets[i] === undefined ? row[0]
      : make("button", { type: "button", class: "goto", onclick: () => this.page.open(`spike-${onsets[i]}`) }, row[0]));
    return make("section", {}, make("h2", {}, title),
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, make("table", {},
        make("thead", {}, make("tr", {}, ...headers.map((words) => make("th", { scope: "col" }, words)))),
        make("tbody", {}, ...rows.map((row, i) => make("tr", {}, make("th", { scope: "row" }, cell(row, i)),
          ...row.slice(1).map((words) => make("td", { class: words === "missed" ? "missed" : null }, words))))))));
  }

  /** Spikes, alarms, actions and events as a list, the last first. */
  happened(anew) {
    const all = allMarks(this.page.details?.marks ?? {});
    byId("happened").hidden = !all.length;
    const marks = all.filter((mark) => this.sorts.has(mark.sort)).slice(-LISTED).reverse();
    const key = JSON.stringify(marks.map((mark) => [mark.key, mark.end, mark.label]));
    if (key === this.key && !anew) return;
    this.key = key;
    byId("events").replaceChildren(...marks.map((mark) => make("tr", {},
      make("th", { scope: "row" }, make("button", { type: "button", class: "goto", onclick: () => this.page.open(mark.key) }, steps(mark.step))),
      make("td", {}, make("span", { class: `sort ${mark.sort}` }, mark.sort === "alarm" ? mark.label : mark.sort)),
      make("td", {}, mark.words ? `${mark.sort === "alarm" ? "" : `${mark.label}: `}${mark.words}` : this.about(mark)))));
  }

  about(mark) {
    if (mark.sort === "guard") return mark.end > mark.step ? `acted up to step ${steps(mark.end)}` : "acted";
    const known = mark.announced === null || mark.announced === undefined ? "" : `, announced ${steps(mark.onset - mark.announced)} steps ahead`;
    return `${mark.label}${known}`;
  }

  /** Layers as rows, with whatever was measured of each. */
  tensors(rows) {
    const NAMES = { share: "share of the unstable direction", curvature_share: "share of the curvature", size: "parameters" };
    const names = [...new Set(rows.flatMap((row) => Object.keys(row.values)))].sort((a, b) => (b === "share") - (a === "share"));
    const cell = (name, value) => {
      if (value === undefined) return make("td", {}, "–");
      if (name !== "share") return make("td", {}, format(value));
      const bar = make("i", { class: "bar" });
      bar.style.width = `${Math.min(Math.max(value, 0), 1) * 6}rem`;
      return make("td", {}, bar, `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`);
    };
    return [
      make("thead", {}, make("tr", {}, ...["layer", ...names.map((name) => NAMES[name] ?? name.replaceAll("_", " "))].map((words) => make("th", { scope: "col" }, words)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, make("th", { scope: "row" }, row.name), ...names.map((name) => cell(name, row.values[name])))))];
  }
}
