/* Layers over steps as a map of colours: the same steps as the charts. */

import { byId, colour, make, say, steps } from "/assets/dom.js";

const ROW = 16, AXIS = 22;
const { format } = foreshockAxes;

/** Blend two colours of the theme, both like #rrggbb. */
function blend(from, to, share) {
  const part = (text, i) => parseInt(text.slice(1 + 2 * i, 3 + 2 * i), 16);
  return `rgb(${[0, 1, 2].map((i) => Math.round(part(from, i) + (part(to, i) - part(from, i)) * share)).join()})`;
}

class HeatMap {
  constructor(page, title) {
    this.page = page;
    this.canvas = make("canvas", { role: "img", tabindex: 0 });
    this.said = make("p", { class: "legend" });
    this.names = make("ol", { class: "layers" });
    this.figure = make("figure", { class: "heat wide" }, make("figcaption", {}, make("h3", {}, title)), this.said,
      make("div", { class: "rows" }, this.names, make("div", { class: "map" }, this.canvas)));
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.tell(null));
    new ResizeObserver(() => this.draw()).observe(this.canvas.parentElement);
  }

  take(map, columns) {
    this.map = map;
    this.columns = columns;
    const found = map.values.flat().filter((value) => value !== null);
    [this.low, this.high] = [Math.min(0, ...found), Math.max(...found)];
    this.names.replaceChildren(...map.layers.map((name) => make("li", { title: name }, name)));
    this.canvas.setAttribute("aria-label", `${map.title}: ${map.layers.length} layers, from ${format(this.low)} to ${format(this.high)}; the largest is ${map.layers[0]}`);
    this.tell(null);
    this.draw();
  }

  draw() {
    if (!this.map) return;
    const ratio = window.devicePixelRatio || 1;
    const width = this.canvas.parentElement.clientWidth, height = this.map.layers.length * ROW + AXIS;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    const ctx = this.canvas.getContext("2d");
    ctx.scale(ratio, ratio);
    const [from, to] = this.page.window();
    const x = (step) => ((step - from) / (to - from)) * width;
    const low = colour("heat-low"), high = colour("heat-high");
    this.map.values.forEach((row, i) => row.forEach((value, j) => {
      if (value === null) return;
      const left = Math.max(x(this.columns[j]), 0), right = Math.min(x(this.columns[j + 1] ?? to), width);
      if (right <= 0 || left >= width) return;
      ctx.fillStyle = blend(low, high, (value - this.low) / (this.high - this.low || 1));
      ctx.fillRect(left, i * ROW, Math.max(right - left, 1), ROW - 1);
    }));
    ctx.fillStyle = colour("soft");
    ctx.font = "11.5px system-ui, sans-serif";
    ctx.textBaseline = "bottom";
    ctx.fillText(steps(from), 0, height - 3);
    ctx.textAlign = "right";
    ctx.fillText(steps(to), width, height - 3);
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect(), [from, to] = this.page.window();
    const row = Math.floor((event.clientY - box.top) / ROW), step = from + ((event.clientX - box.left) / box.width) * (to - from);
    let column = -1;
    this.columns.forEach((first, j) => { if (first <= step) column = j; });
    this.tell(this.map.layers[row] === undefined || column < 0 ? null : [row, column]);
  }

  tell(place) {
    const words = place
      ? `step ${steps(this.columns[place[1]])} · ${this.map.layers[place[0]]} · ${this.map.values[place[0]][place[1]] === null ? "–" : format(this.map.values[place[0]][place[1]])}`
      : `from ${format(this.low)} (pale) to ${format(this.high)} (deep)${this.map.left > 0 ? ` · ${this.map.left} smaller layers are left out` : ""}`;
    say(this.said, words);
  }
}

/** The maps of the run in front. */
export class HeatMaps {
  constructor(page) {
    this.page = page;
    this.maps = new Map();
  }

  show(found) {
    const place = byId("heats");
    const titles = found.maps.map((map) => map.title);
    for (const [title, map] of this.maps) if (!titles.includes(title)) { map.figure.remove(); this.maps.delete(title); }
    for (const map of found.maps) {
      if (!this.maps.has(map.title)) {
        this.maps.set(map.title, new HeatMap(this.page, map.title));
        place.append(this.maps.get(map.title).figure);
      }
      this.maps.get(map.title).take(map, found.steps);
    }
  }

  draw() {
    this.maps.forEach((map) => map.draw());
  }
}
