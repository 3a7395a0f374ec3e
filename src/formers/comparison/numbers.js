"use strict";
// Numbers as people read them, ticks of axes, and the moving average. Knows nothing of the page.
const Numbers = (() => {
  const trim = text => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  function number(v) {
    if (v === 0) return "0";
    const size = Math.abs(v);
    return size < 1e-3 || size >= 1e7
      ? v.toExponential(2).replace(/\.?0+e/, "e")
      : trim(v.toPrecision(size >= 1000 ? 6 : 4));
  }
  function compact(v) {
    for (const [size, letter] of [
      [1e18, "E"],
      [1e15, "P"],
      [1e12, "T"],
      [1e9, "B"],
      [1e6, "M"],
      [1e3, "k"],
    ])
      if (Math.abs(v) >= size) return trim((v / size).toPrecision(4)) + letter;
    return trim(v.toPrecision(4));
  }
  const whole = v => Math.round(v).toLocaleString("en-US");
  function duration(s) {
    if (s < 60) return `${trim(s.toPrecision(3))} s`;
    if (s < 3600)
      return s % 60 < 0.5 ? `${Math.floor(s / 60)} min` : `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
    if (s < 172800)
      return s % 3600 < 30
        ? `${Math.floor(s / 3600)} h`
        : `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
    return `${trim((s / 86400).toPrecision(3))} d`;
  }

  function linearTicks(min, max, most) {
    const raw = (max - min) / most;
    const size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].find(m => m * size >= raw) * size;
    const out = [];
    for (let i = Math.ceil(min / step); i * step <= max * (1 + 1e-9); i++) out.push(+(i * step).toPrecision(12));
    return out;
  }
  function logTicks(min, max, most) {
    if (max / min < 6) return linearTicks(min, max, most);
    const decades = Math.log10(max / min);
    const digits = decades * 3 <= most + 1 ? [1, 2, 5] : [1];
    const every = Math.max(1, Math.ceil(decades / most));
    const out = [];
    for (let e = Math.floor(Math.log10(min)); e <= Math.log10(max); e++)
      for (const d of digits) {
        const v = +`${d}e${e}`;
        if (v >= min * 0.999 && v <= max * 1.001 && e % every === 0) out.push(v);
      }
    return out;
  }

  // A moving average over a share of the run's steps. At the start the window shrinks on both sides, so that the steep
  // first fall is not bent; at the end only its left side is left. Bins weigh as many steps as they hold.
  function smoothed(rows, values, percent) {
    const steps = rows.step;
    const n = steps.length;
    const out = new Array(n).fill(null);
    const reach = ((steps[n - 1] - steps[0]) * percent) / 200;
    const sum = [0];
    const weight = [0];
    for (let i = 0; i < n; i++) {
      const w = values[i] == null ? 0 : rows.count ? rows.count[i] : 1;
      sum.push(sum[i] + w * (values[i] ?? 0));
      weight.push(weight[i] + w);
    }
    for (let i = 0, lo = 0, hi = 0; i < n; i++) {
      const h = Math.min(reach, steps[i] - steps[0]);
      while (steps[lo] < steps[i] - h) lo++;
      while (hi < n && steps[hi] <= steps[i] + h) hi++;
      if (values[i] != null) out[i] = (sum[hi] - sum[lo]) / (weight[hi] - weight[lo]);
    }
    return out;
  }

  return { number, compact, whole, duration, linearTicks, logTicks, smoothed };
})();
