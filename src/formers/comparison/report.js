// What the reader can turn on the page: the charts' controls, which runs are shown, how the results are sorted, printing.
(() => {
  const { state, drawAll, zoomOut } = Charts;
  const form = document.getElementById("controls");
  let pending = 0;
  const redraw = () => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(drawAll);
  };

  function readControls(event) {
    const fields = form.elements;
    if (event && event.target.name === "x") state.zoom = {};
    state.x = fields.x.value;
    state.logx = fields.logx.checked;
    state.logy = fields.logy.checked;
    state.smooth = +fields.smooth.value;
    state.skip = +fields.skip.value;
    fields.smoothed.value = state.smooth ? `${state.smooth} %` : "off";
    fields.skipped.value = `${state.skip} %`;
    redraw();
  }
  form.addEventListener("input", readControls);
  form.addEventListener("submit", event => event.preventDefault());
  form.elements.reset.addEventListener("click", zoomOut);
  document.addEventListener("drawn", () => {
    form.elements.reset.disabled = !Object.keys(state.zoom).length;
  });

  // ---- which runs are shown
  const boxes = [...document.querySelectorAll("[data-pick]")];
  function pick() {
    state.shown = new Set(boxes.filter(box => box.checked).map(box => +box.dataset.pick));
    for (const part of document.querySelectorAll("[data-run]")) part.hidden = !state.shown.has(+part.dataset.run);
    redraw();
  }
  boxes.forEach(box => box.addEventListener("change", pick));
  for (const button of document.querySelectorAll("[data-pick-all]"))
    button.addEventListener("click", () => {
      boxes.forEach(box => {
        box.checked = !!button.dataset.pickAll;
      });
      pick();
    });

  const filter = document.querySelector("[data-pick-filter]");
  filter?.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    boxes.forEach(box => {
      const name = box.closest("label").textContent.toLowerCase();
      box.checked = !words.length || words.some(word => name.includes(word));
    });
    pick();
  });

  // ---- sorting: the first click puts the best on top, what is unknown stays below
  function sort(table, heading) {
    const at = heading.cellIndex;
    const numeric = heading.classList.contains("n");
    const now = heading.getAttribute("aria-sort");
    const first = numeric && heading.dataset.sort !== "low" ? "descending" : "ascending";
    const order = now ? (now === "ascending" ? "descending" : "ascending") : first;
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map(row => [row.cells[at].dataset.value, row]);
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * (numeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
  }
  for (const table of document.querySelectorAll("table.sortable"))
    for (const heading of table.tHead.rows[0].cells)
      heading.querySelector("button").addEventListener("click", () => sort(table, heading));

  // ---- printing: light, with everything unfolded
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach(part => {
      part.open = true;
    });
    document.documentElement.classList.add("printing");
    drawAll();
  });
  addEventListener("afterprint", () => {
    folded.forEach(part => {
      part.open = false;
    });
    document.documentElement.classList.remove("printing");
    drawAll();
  });

  readControls();
  drawAll();
})();
