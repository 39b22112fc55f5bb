/* Dark, light, or as the system has it: set before anything is drawn, and kept for the next visit. */
"use strict";

const foreshockTheme = (() => {
  const KEY = "foreshock-theme", ORDER = ["auto", "dark", "light"];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const listeners = [];

  function kept() {
    try {
      const found = localStorage.getItem(KEY);
      return ORDER.includes(found) ? found : "auto";
    } catch {
      return "auto"; // storage may be forbidden
    }
  }

  let wanted = kept();

  function apply() {
    document.documentElement.dataset.theme = wanted === "auto" ? (dark.matches ? "dark" : "light") : wanted;
    listeners.forEach((listener) => listener(wanted));
  }

  function next() {
    wanted = ORDER[(ORDER.indexOf(wanted) + 1) % ORDER.length];
    try {
      localStorage.setItem(KEY, wanted);
    } catch { /* it holds for this visit */ }
    apply();
  }

  dark.addEventListener("change", apply);
  apply();
  return { next, changed: (listener) => { listeners.push(listener); listener(wanted); } };
})();
