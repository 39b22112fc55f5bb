/* Numbers and ticks as all charts write them. */
"use strict";

const foreshockAxes = (() => {
  function format(value) {
    if (value == null) return "–";
    const size = Math.abs(value);
    if (size >= 1e9) return value.toExponential(2);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    if (size !== 0 && size < 1e-3) return value.toExponential(size === Number(`1e${Math.round(Math.log10(size))}`) ? 0 : 2);
    return String(Number(value.toPrecision(4)));
  }

  /** A tick of a logarithmic axis: 10⁻⁴ where plain digits would be long. */
  function power(value) {
    const exponent = Math.round(Math.log10(value));
    if (Math.abs(exponent) < 3 || Math.abs(value / 10 ** exponent - 1) > 1e-9) return format(value);
    return "10" + [...String(exponent)].map((sign) => (sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign])).join("");
  }

  /** Ticks of a logarithmic axis: decades if there are several, else 1-2-5, else evenly spaced. */
  function logTicks(u, axis, min, max) {
    const span = Math.log10(max) - Math.log10(min); // their quotient may be beyond the largest number
    const ticks = [];
    if (span < 0.9) {
      const raw = (max - min) / 6, unit = 10 ** Math.floor(Math.log10(raw));
      const step = unit * [1, 2, 5, 10].find((m) => m * unit >= raw);
      for (let i = Math.ceil(min / step); i * step <= max; i++) ticks.push(Number((i * step).toPrecision(12)));
      return ticks;
    }
    const stride = Math.ceil(span / 5);
    for (let k = Math.floor(Math.log10(min)); k <= Math.ceil(Math.log10(max)); k++)
      for (const m of span < 2 ? [1, 2, 5] : [1])
        if (k % stride === 0 || span < 2) ticks.push(Number(`${m}e${k}`));
    return ticks.filter((t) => t >= min && t <= max);
  }

  return { format, power, logTicks };
})();
