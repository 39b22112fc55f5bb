/* Elements from words. Words become text, never markup: names in a log may be anything. */

export const byId = (id) => document.getElementById(id);

/** An element with attributes and children; a string among the children becomes text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set the text of an element if it is another one: a reader's selection, and a screen reader, stay calm. */
export function say(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

const colours = new Map(); // asking the style of a page again and again is slow
foreshockTheme.changed(() => colours.clear());

/** A colour of the theme. */
export function colour(role) {
  if (!colours.has(role)) colours.set(role, getComputedStyle(document.documentElement).getPropertyValue(`--${role}`).trim());
  return colours.get(role);
}

/** The text of steps as people write them. */
export const steps = (value) => Math.round(value).toLocaleString("en");

export async function ask(path, parameters) {
  const answer = await fetch(`${path}?${new URLSearchParams(parameters)}`);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer;
}
