// What each chart draws: its lines, its ranges, its horizontal axis. The state says how; report.js changes the state.
const Lines = (() => {
  const { compact, whole, duration, smoothed } = Numbers;
  const page = JSON.parse(document.getElementById("report-data").textContent);
  const state = { x: "step", logx: false, logy: false, smooth: 1, skip: 0, zoom: {}, shown: new Set(page.runs.keys()) };
  const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = run => style(`--run-${run.colour}`);
  const CROWD = 8;

  page.runs.forEach((run, i) => Object.assign(run, { index: i, ...page.looks[i % page.looks.length] }));
  const shown = () => page.runs.filter(run => state.shown.has(run.index));
  const crowded = () => state.shown.size > CROWD; // then only what matters is drawn: no bands, no dots, no raw lines

  const X = {
    step: { label: "Training steps", tick: compact, tip: v => `Step ${whole(v)}` },
    tokens: { label: "Tokens read in training", tick: compact, tip: v => `${compact(v)} tokens` },
    seconds: {
      label: "Training time",
      tick: duration,
      tip: duration,
      incrs: [
        0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400,
        172800, 432000, 864000,
      ],
    },
    operations: { label: "Floating-point operations of training", tick: compact, tip: v => `${compact(v)} operations` },
    place: { label: "Tokens since the start of the document", tick: compact, tip: v => `About ${whole(v)} tokens in` },
  };

  // ---- lines: {run, what, x, y, width, dots, faint, low, high}
  // Tokens that are the step times one number come as that number.
  const column = (rows, key) => (typeof rows[key] === "number" ? rows.step.map(s => s * rows[key]) : rows[key] || []);
  const across = (run, rows) =>
    state.x === "operations"
      ? column(rows, "tokens").map(t => (t === null || !run.operations ? null : t * run.operations))
      : column(rows, state.x);

  function trainLines(run, key, smooth) {
    const rows = run.train;
    const y = rows[key];
    const x = across(run, rows);
    if (!y || !x.length) return [];
    const line = {
      run,
      what: "training",
      x,
      y,
      width: key !== "loss" ? 1.75 : crowded() ? 0.75 : 1.25,
      low: rows[`${key}_min`],
      high: rows[`${key}_max`],
    };
    if (!smooth || !state.smooth || y.length < 8) return [line];
    const average = { ...line, y: smoothed(rows, y, state.smooth), low: undefined };
    return crowded() ? [average] : [{ ...line, faint: true }, average];
  }
  function evalLines(run, key) {
    return Object.entries(run.evals)
      .filter(([, rows]) => rows[key].some(v => v !== null))
      .map(([split, rows]) => ({
        run,
        what: split,
        x: across(run, rows),
        y: rows[key],
        width: crowded() ? 1.75 : 2.5,
        dots: !crowded() && rows.step.length <= 60,
      }));
  }
  function positionLines(run) {
    const p = run.position;
    if (!p) return [];
    return [
      {
        run,
        what: `at step ${whole(p.step)}`,
        x: p.start.map((s, i) => (s + p.end[i]) / 2),
        y: p.loss,
        width: crowded() ? 1.5 : 2,
        dots: !crowded(),
      },
    ];
  }
  // Buckets that grow with the position are made to be read on a log axis.
  function widening({ position: p }) {
    const last = p ? p.start.length - 1 : 0;
    return last > 0 && p.end[last] - p.start[last] >= 8 * (p.end[0] - p.start[0]);
  }
  const bounds = run =>
    Object.entries(run.baselines).map(([name, value]) => ({ name: name === "gzip" ? "gzip -9" : "unigram", value }));

  const DEFINITIONS = {
    loss: { lines: run => [...trainLines(run, "loss", true), ...evalLines(run, "loss")], log: true },
    bits: { lines: run => evalLines(run, "bits_per_byte"), log: true, marks: bounds },
    position: { lines: positionLines, x: "place" },
    rate: { lines: run => trainLines(run, "lr", false), log: true, zero: true },
    speed: { lines: run => trainLines(run, "tokens_per_second", true), zero: true, tick: compact },
    gradient: { lines: run => trainLines(run, "grad_norm", true), log: true, zero: true },
  };
  const axisOf = definition => definition.x || state.x;

  // ---- ticks and ranges
  function xRange(lines, name, log) {
    const zoom = state.zoom[name];
    if (zoom && !(log && zoom[0] <= 0)) return zoom;
    const xs = lines.flatMap(line => line.x).filter(v => v !== null && (!log || v > 0));
    let max = -Infinity;
    let min = Infinity;
    for (const v of xs) {
      if (v > max) max = v;
      if (v < min) min = v;
    }
    if (!(max > -Infinity)) return [0, 1];
    const low = name === "place" || log ? min : 0;
    const cut = name === "place" ? 0 : (max * state.skip) / 100;
    const from = Math.max(low, cut);
    return max > from ? [from, log ? max * 1.02 : max + (max - from) * 0.01] : [from * 0.9, max * 1.1 || 1];
  }
  function yRange(definition, log, marks) {
    return (u, low, high) => {
      if (low == null) return [log ? 0.1 : 0, 1];
      for (const mark of marks) {
        low = Math.min(low, mark.value);
        high = Math.max(high, mark.value);
      }
      if (log)
        return low === high ? [low / 1.5, high * 1.5] : [low / (high / low) ** 0.05, high * (high / low) ** 0.05];
      if (definition.zero) low = Math.min(0, low);
      const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
      return [definition.zero && low === 0 ? 0 : low - room, high + room];
    };
  }

  return { page, state, style, colour, shown, crowded, X, DEFINITIONS, axisOf, widening, xRange, yRange };
})();
