// The charts: drawn by uPlot from what lines.js says, read with the mouse or the keyboard, zoomed together.
const Charts = (() => {
  const { number, linearTicks, logTicks } = Numbers;
  const { page, state, style, colour, shown, crowded, X, DEFINITIONS, axisOf, widening, xRange, yRange } = Lines;
  const MOST_HOVER_POINTS = 40;
  const MOST_TIP_LINES = 10;

  const plots = new Map(); // figure -> uPlot
  const lineOf = new Map(); // uPlot -> its lines, one a series
  let active = null; // the figure that the mouse or the keyboard is in

  function draw(figure) {
    const definition = DEFINITIONS[figure.dataset.chart];
    const host = figure.querySelector(".plot");
    const name = axisOf(definition);
    plots.get(figure)?.destroy();
    lineOf.delete(plots.get(figure));
    plots.delete(figure);
    host.textContent = "";
    const logy = state.logy && !!definition.log;
    const runs = shown();
    const logx = state.logx || (name === "place" && runs.some(widening));
    const lines = runs
      .flatMap(definition.lines)
      .map(line => cleaned(line, logx, logy))
      .filter(line => line.y.some(v => v !== null));
    describe(figure, host, lines, name);
    if (!lines.length) return empty(host, runs.length ? "Not recorded." : "No run is selected.");
    const marks = definition.marks ? distinct(runs.flatMap(definition.marks)) : [];
    const options = optionsFor({ definition, host, lines, name, logx, logy, marks, range: xRange(lines, name, logx) });
    const plot = new uPlot(options, uPlot.join(lines.map(line => [line.x, line.y])), host);
    plots.set(figure, plot);
    lineOf.set(plot, lines);
    keys(figure, host, plot);
  }

  // Points without a place on the axes (nothing, or not positive on a log axis) leave; a value that is missing stays a gap.
  function cleaned(line, logx, logy) {
    const keep = [...line.x.keys()].filter(i => line.x[i] !== null && (!logx || line.x[i] > 0));
    const pick = values =>
      values &&
      keep.map(i => (values[i] === null || values[i] === undefined || (logy && values[i] <= 0) ? null : values[i]));
    return { ...line, x: keep.map(i => line.x[i]), y: pick(line.y), low: pick(line.low), high: pick(line.high) };
  }
  const distinct = marks =>
    [...new Map(marks.map(mark => [`${mark.name} ${mark.value.toPrecision(4)}`, mark])).values()].slice(0, 6);

  function empty(host, words) {
    const note = document.createElement("div");
    note.className = "empty";
    note.textContent = words;
    host.append(note);
  }

  function optionsFor({ definition, host, lines, name, logx, logy, marks, range }) {
    const muted = style("--muted");
    const grid = style("--grid");
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis = {
      stroke: muted,
      font,
      labelFont: font,
      grid: { stroke: grid, width: 1 },
      ticks: { show: false },
      filter: (u, splits) => splits,
    };
    const perTick = host.clientWidth < 500 ? 60 : 90;
    const x = {
      ...axis,
      label: X[name].label + (logx ? " (log scale)" : ""),
      labelSize: 20,
      size: 30,
      gap: 7,
      space: perTick,
      incrs: X[name].incrs,
      values: (u, s) => s.map(X[name].tick),
    };
    if (logx) x.splits = (u, i, min, max) => logTicks(min, max, Math.floor(host.clientWidth / perTick));
    const y = {
      ...axis,
      size: 46,
      gap: 6,
      values: (u, s) => s.map(definition.tick || number),
      splits: (u, i, min, max) =>
        (logy ? logTicks : linearTicks)(min, max, Math.max(3, Math.floor(host.clientHeight / 45))),
    };
    return {
      width: host.clientWidth,
      height: host.clientHeight,
      padding: [8, 10, 0, 0],
      legend: { show: false },
      scales: {
        x: { time: false, distr: logx ? 3 : 1, range: () => range },
        y: { distr: logy ? 3 : 1, range: yRange(definition, logy, marks) },
      },
      axes: [x, y],
      series: [{}, ...lines.map(series)],
      cursor: cursor(name, lines),
      hooks: {
        drawAxes: [u => bands(u, lines), u => drawMarks(u, marks, muted, font)],
        setSelect: [u => zoomTo(u, name)],
        setCursor: [tip],
      },
    };
  }

  function series(line) {
    const faint = line.faint ? "50" : "";
    return {
      stroke: colour(line.run) + faint,
      width: line.faint ? 1 : line.width,
      dash: line.run.dash,
      spanGaps: false,
      points: { show: !!line.dots, size: 6, fill: colour(line.run), width: 0 },
    };
  }

  function cursor(name, lines) {
    return {
      y: false,
      drag: { x: true, y: false, setScale: false },
      dataIdx: (u, s, at, value) => nearest(u, s, at, value),
      points: {
        show: (u, s) => lines.length <= MOST_HOVER_POINTS && s > 0 && !lines[s - 1].faint && dot(lines[s - 1]),
      },
      bind: { dblclick: () => () => zoomOut() },
      sync: {
        key: name,
        setSeries: false,
        scales: ["x", null],
        filters: { pub: type => type === "mousemove" || type === "mouseleave" },
      },
    };
  }
  function dot(line) {
    const mark = document.createElement("div");
    Object.assign(mark.style, {
      background: colour(line.run),
      width: "8px",
      height: "8px",
      marginLeft: "-4px",
      marginTop: "-4px",
    });
    return mark;
  }

  // The nearest point of this line itself: other lines have their own places on the axis.
  function nearest(u, s, at, value) {
    const ys = u.data[s];
    const xs = u.data[0];
    let left = at;
    let right = at;
    while (left >= 0 && ys[left] == null) left--;
    while (right < ys.length && ys[right] == null) right++;
    if (left < 0 && right >= ys.length) return null;
    if (left < 0) return right;
    return right >= ys.length || value - xs[left] < xs[right] - value ? left : right;
  }

  function bands(u, lines) {
    if (crowded()) return;
    const { ctx, bbox } = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const line of lines.filter(l => l.low && l.high)) {
      const at = [...line.x.keys()].filter(i => line.low[i] !== null && line.high[i] !== null);
      ctx.beginPath();
      for (const i of at) ctx.lineTo(u.valToPos(line.x[i], "x", true), u.valToPos(line.high[i], "y", true));
      for (const i of at.reverse()) ctx.lineTo(u.valToPos(line.x[i], "x", true), u.valToPos(line.low[i], "y", true));
      ctx.fillStyle = colour(line.run) + "26";
      ctx.fill();
    }
    ctx.restore();
  }

  function drawMarks(u, marks, ink, font) {
    const { ctx, bbox } = u;
    const scale = devicePixelRatio;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = ink;
    ctx.lineWidth = scale;
    ctx.font = font.replace("12px", `${12 * scale}px`);
    ctx.textAlign = "right";
    ctx.textBaseline = "bottom";
    for (const mark of marks) {
      const y = u.valToPos(mark.value, "y", true);
      ctx.setLineDash([5 * scale, 4 * scale]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.fillText(`${mark.name} ${number(mark.value)}`, bbox.left + bbox.width - 4 * scale, y - 2 * scale);
    }
    ctx.restore();
  }

  // ---- zoom, tooltip, keyboard
  function zoomTo(u, name) {
    if (u.select.width < 6) return;
    state.zoom[name] = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
    requestAnimationFrame(drawAll);
  }
  function zoomOut() {
    state.zoom = {};
    requestAnimationFrame(drawAll);
  }

  const box = document.createElement("div");
  box.className = "tip";
  box.setAttribute("role", "status");
  box.hidden = true;
  document.body.append(box);

  function tip(u) {
    if (u !== plots.get(active)) return;
    box.hidden = u.cursor.left < 0 || u.cursor.left === undefined;
    if (box.hidden) return;
    const name = u.cursor.sync.key;
    const found = hovered(u);
    const head = document.createElement("b");
    head.textContent = X[name].tip(u.posToVal(u.cursor.left, "x"));
    box.replaceChildren(head, ...found.map(row => tipLine(row)));
    const over = u.over.getBoundingClientRect();
    const at = over.left + u.cursor.left;
    const left = u.cursor.left > over.width / 2 ? at - box.offsetWidth - 14 : at + 14;
    box.style.left = `${Math.max(4, Math.min(left, innerWidth - box.offsetWidth - 4))}px`;
    box.style.top = `${Math.min(over.top + 10, innerHeight - box.offsetHeight - 8)}px`;
  }
  function hovered(u) {
    const near = Math.max(40, u.over.clientWidth / 25);
    const rows = lineOf
      .get(u)
      .map((line, i) => ({ line, at: u.cursor.idxs[i + 1], series: i + 1 }))
      .filter(
        ({ line, at }) => !line.faint && at != null && Math.abs(u.valToPos(u.data[0][at], "x") - u.cursor.left) < near,
      );
    const valued = rows.map(row => ({ ...row, value: u.data[row.series][row.at] }));
    valued.sort(
      (a, b) => Math.abs(u.valToPos(a.value, "y") - u.cursor.top) - Math.abs(u.valToPos(b.value, "y") - u.cursor.top),
    );
    return valued.slice(0, MOST_TIP_LINES).sort((a, b) => b.value - a.value);
  }
  function tipLine({ line, value }) {
    const row = document.createElement("div");
    const part = (tag, words) => {
      const element = document.createElement(tag);
      element.textContent = words;
      row.append(element);
    };
    row.append(swatch(line.run));
    if (page.runs.length > 1) part("span", line.run.name);
    part("small", line.what);
    part("b", number(value));
    return row;
  }
  function swatch(run) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = document.createElementNS(svg.namespaceURI, "path");
    svg.setAttribute("class", "swatch");
    svg.setAttribute("viewBox", "0 0 24 8");
    path.setAttribute("d", "M0 4H24");
    path.setAttribute("stroke", colour(run));
    path.setAttribute("stroke-dasharray", run.dash.join(" "));
    svg.append(path);
    return svg;
  }

  function keys(figure, host, plot) {
    host.onmouseenter = host.onmousemove = () => {
      active = figure;
    };
    host.onmouseleave = host.onblur = () => {
      box.hidden = true;
    };
    host.onkeydown = event => {
      const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
      if (event.key === "Escape") {
        box.hidden = true;
        return;
      }
      if (move === undefined) return;
      event.preventDefault();
      active = figure;
      const width = plot.over.clientWidth;
      const from = plot.cursor.left < 0 ? 0 : plot.cursor.left;
      plot.setCursor({
        left: Math.max(0, Math.min(width, from + (move * width) / 100)),
        top: plot.over.clientHeight / 2,
      });
    };
  }
  function describe(figure, host, lines, name) {
    const last = lines
      .filter(line => !line.faint)
      .slice(0, 12)
      .map(line => `${line.run.name}, ${line.what}: last ${number(line.y.findLast(v => v !== null))}`);
    host.tabIndex = lines.length ? 0 : -1;
    host.setAttribute("role", "img");
    host.setAttribute(
      "aria-label",
      `${figure.querySelector("h3").textContent} against ${X[name].label.toLowerCase()}. ${last.join("; ")}`,
    );
  }

  const figures = [...document.querySelectorAll("[data-chart]")];
  function drawAll() {
    box.hidden = true;
    figures.forEach(draw);
    document.dispatchEvent(new CustomEvent("drawn"));
  }
  function resized(entries) {
    for (const { target } of entries) {
      const plot = plots.get(target.closest("figure"));
      if (plot && target.clientWidth && plot.width !== target.clientWidth)
        plot.setSize({ width: target.clientWidth, height: target.clientHeight });
    }
  }
  const observer = new ResizeObserver(resized);
  figures.forEach(figure => observer.observe(figure.querySelector(".plot")));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  return { state, drawAll, zoomOut };
})();
