"use strict";
// Where tokens looked: tints the document, and tells of the token that is pointed at, focused or held.
(() => {
  const $ = id => document.getElementById(id);
  const data = JSON.parse($("lookups-data").textContent);
  const bytes = packed => Uint8Array.from(atob(packed), letter => letter.charCodeAt(0)).buffer;
  const loss = new Float32Array(bytes(data.loss));
  const without = data.without && new Float32Array(bytes(data.without));
  const layers = data.layers.map(layer => ({
    ...layer,
    shares: new Uint16Array(bytes(layer.shares)),
    index: new Int32Array(bytes(layer.index)),
    score: new Float32Array(bytes(layer.score)),
    weight: new Uint16Array(bytes(layer.weight)),
  }));
  const WHOLE = 65535;
  const AROUND = 40; // characters on either side of a passage
  const spans = [...$("document").querySelectorAll("span")];
  const form = $("controls");
  const panel = $("panel");
  let layer = layers[0];
  let heads = [];
  let at = -1; // the token shown, counted on the page
  let held = false;

  const percent = share => `${(100 * share).toFixed(share && share < 0.0995 ? 1 : 0)} %`;
  const whole = n => n.toLocaleString("en-US");
  const text = i => {
    const span = spans[i - data.first];
    return span ? span.textContent : i === data.first + data.count ? data.next : "";
  };
  const visible = piece => piece.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/ /g, "␣") || "·";

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {}))
      if (name === "style") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
      else element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // ---- what the chosen heads say of a token, as a mean over them
  function shares(t) {
    const sum = [0, 0, 0];
    for (const h of heads)
      for (let s = 0; s < 3; s++) sum[s] += layer.shares[(t * layer.heads + h) * 3 + s] / WHOLE / heads.length;
    return sum;
  }
  function passages(t) {
    const found = new Map();
    for (const h of heads)
      for (let n = 0; n < layer.kept; n++) {
        const place = (t * layer.heads + h) * layer.kept + n;
        const index = layer.index[place];
        if (index < 0) continue;
        const entry = found.get(index) || { index, weight: 0, score: -Infinity, heads: [] };
        entry.weight += layer.weight[place] / WHOLE / heads.length;
        entry.score = Math.max(entry.score, layer.score[place]);
        entry.heads.push(h);
        found.set(index, entry);
      }
    return [...found.values()].sort((a, b) => b.weight - a.weight || b.score - a.score).slice(0, Math.max(layer.kept, 6));
  }

  // ---- the tint of the whole document
  const TINTS = {
    share: t => shares(t)[2],
    best: t => passages(t)[0]?.weight ?? 0,
    saved: t => (without && Number.isFinite(loss[t]) ? without[t] - loss[t] : 0),
  };
  const MEANINGS = {
    share: "The darker a token, the more of its attention went to the memory.",
    best: "The darker a token, the more of its attention went to one single passage in the memory.",
    saved:
      "Tokens that the memory made easier to guess, and those that it made harder: the loss without memory less the loss with it.",
  };
  const STEADY = " In this layer gates decide how much the memory counts, and they are the same for every token.";

  function tint() {
    const kind = form.elements.tint.value;
    const values = spans.map((_, t) => TINTS[kind](t));
    const sizes = values.map(Math.abs).sort((a, b) => a - b);
    const most = Math.max(sizes[Math.floor(0.98 * (sizes.length - 1))], sizes[sizes.length - 1] / 4, 1e-9);
    values.forEach((value, t) => {
      spans[t].style.setProperty("--m", Math.min(1, Math.abs(value) / most).toFixed(3));
      spans[t].style.setProperty("--tint", kind !== "saved" ? "var(--memory)" : value < 0 ? "var(--worse)" : "var(--cache)");
    });
    const two = kind === "saved";
    $("scale").classList.toggle("two", two);
    form.elements.low.value = two ? `${most.toFixed(2)} harder` : "0";
    form.elements.high.value = two ? `${most.toFixed(2)} easier` : percent(most);
    $("meaning").textContent = MEANINGS[kind] + (kind === "share" && layer.steady ? STEADY : "");
  }

  // ---- the panel
  function shareBar([window, cache, memory]) {
    const parts = { window, cache, memory };
    const bar = make("div", { class: "share", "aria-hidden": "true" });
    const legend = make("div", { class: "legend" });
    for (const [name, share] of Object.entries(parts)) {
      bar.append(make("i", { class: name, style: { width: `${100 * share}%` } }));
      legend.append(make("span", {}, make("i", { class: name }), `${name} `, make("b", {}, percent(share))));
    }
    return [bar, legend];
  }
  function gate() {
    if (!layer.gates) return [];
    const gates = heads.map(h => layer.gates[h]);
    const ends = [Math.min(...gates), Math.max(...gates)].map(end => end.toFixed(3));
    const said = [...new Set(ends)].join(" to ");
    return [make("p", {}, gates.length === 1 ? "Gate of the head " : "Gates of the heads ", make("b", {}, said))];
  }
  function cost(what, t) {
    if (!Number.isFinite(loss[t])) return [];
    const line = make("p", {}, `${what}: loss `, make("b", {}, loss[t].toFixed(2)));
    if (without) line.append(`, without memory ${without[t].toFixed(2)}`);
    return [line];
  }
  function passage(entry, t) {
    const on = data.first + t;
    const inside = entry.index >= data.first && entry.index < data.first + data.count;
    const outside = data.outside[entry.index];
    const run = (from, to) => {
      let all = "";
      for (let i = Math.max(from, data.first); i < to && i < data.first + data.count; i++) all += text(i);
      return all;
    };
    const i = entry.index;
    const parts = inside
      ? [run(i - AROUND, i), text(i), run(i + 1, i + 1 + AROUND)]
      : outside || ["(its text is not on this page)", "", ""];
    const [before, after] = [parts[0], parts[2]].map(side => [...side.replace(/\n/g, "↵").replace(/ {2,}/g, " ")]);
    const words = [
      `…${before.slice(-AROUND).join("")}`,
      make("mark", {}, visible(parts[1]).replace(/␣/g, "\u00a0")),
      `${after.slice(0, AROUND).join("")}…`,
    ];
    const body = inside
      ? make("a", { href: `#t${entry.index}`, "data-to": entry.index }, ...words)
      : make("span", { class: "far" }, ...words);
    const facts = [
      `token ${whole(entry.index)}`,
      `${whole(on - entry.index)} back`,
      `weight ${percent(entry.weight)}`,
      `score ${entry.score.toFixed(2)}`,
    ];
    if (heads.length > 1) facts.push(entry.heads.length > 1 ? `heads ${entry.heads.join(", ")}` : `head ${entry.heads[0]}`);
    const meter = make("div", { class: "meter", style: { width: `${100 * Math.min(1, entry.weight)}%` } });
    return make("li", {}, body, make("small", {}, ...facts.map(fact => make("span", {}, fact))), meter);
  }
  function show(t) {
    if (at >= 0) spans[at].classList.remove("at", "held");
    document.querySelectorAll(".given").forEach(span => span.classList.remove("given"));
    at = t;
    spans[t].classList.add("at");
    spans[t].classList.toggle("held", held);
    const on = data.first + t;
    const found = passages(t);
    const parts = shares(t);
    for (const entry of found) spans[entry.index - data.first]?.classList.add("given");
    const nothing = on < data.segment ? "Nothing yet: this is the first segment, and the memory is empty." : "No passage was found.";
    panel.replaceChildren(
      make("h3", {}, make("span", { class: "token" }, visible(text(on)))),
      make("p", {}, `token ${whole(on)}, segment ${whole(Math.floor(on / data.segment))}${held ? ", held" : ""}`),
      ...shareBar(parts),
      ...gate(),
      ...cost("This token", t),
      ...(t + 1 < loss.length ? cost(`Next, ${visible(text(on + 1))}`, t + 1) : []),
      make("h4", {}, "Passages that it was given"),
      found.length ? make("ul", { class: "passages" }, ...found.map(entry => passage(entry, t))) : make("p", {}, nothing),
    );
    panel.scrollTop = 0;
    const best = found.length ? ` Strongest: token ${whole(found[0].index)}, ${visible(text(found[0].index))}.` : "";
    $("said").textContent = `Memory ${percent(parts[2])}.${best}`;
  }

  // ---- pointing, holding, walking
  const place = event => {
    const span = event.target.closest?.("#document span");
    return span ? +span.id.slice(1) - data.first : -1;
  };
  function hold(t, on) {
    held = on;
    show(t);
  }
  function walk(t) {
    t = Math.max(0, Math.min(spans.length - 1, t));
    for (const span of [spans[at], spans[focusable], spans[t]]) span?.setAttribute("tabindex", span === spans[t] ? 0 : -1);
    focusable = t;
    spans[t].focus({ preventScroll: true });
    hold(t, true);
    uncover(spans[t]);
  }
  function uncover(span) {
    span.scrollIntoView({ block: "nearest" });
    const below = span.getBoundingClientRect();
    const { left, top } = panel.getBoundingClientRect();
    if (left < below.right && top < below.bottom) scrollBy(0, below.bottom - top + 60);
  }
  function line(t, step) {
    const { left, top } = spans[t].getBoundingClientRect();
    let best = t;
    let nearest = Infinity;
    let row = null;
    for (let i = t + step; i >= 0 && i < spans.length; i += step) {
      const rect = spans[i].getBoundingClientRect();
      if ((rect.top - top) * step < 4) continue;
      row ??= rect.top;
      if ((rect.top - row) * step > 4) break;
      if (Math.abs(rect.left - left) < nearest) [best, nearest] = [i, Math.abs(rect.left - left)];
    }
    return best;
  }
  let focusable = 0;
  const doc = $("document");
  doc.addEventListener("pointerover", event => {
    const t = place(event);
    if (t >= 0 && !held && event.pointerType !== "touch") show(t);
  });
  doc.addEventListener("click", event => {
    const t = place(event);
    if (t < 0) return;
    if (held && t === at) return hold(t, false);
    walk(t);
  });
  doc.addEventListener("focusin", event => {
    const t = place(event);
    if (t >= 0 && t !== at && event.target.matches(":focus-visible")) hold(t, true);
  });
  doc.addEventListener("keydown", event => {
    const t = place(event);
    if (t < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const to = {
      ArrowRight: () => t + 1,
      ArrowLeft: () => t - 1,
      ArrowDown: () => line(t, 1),
      ArrowUp: () => line(t, -1),
      PageDown: () => t + data.segment,
      PageUp: () => t - data.segment,
      Home: () => 0,
      End: () => spans.length - 1,
    }[event.key];
    if (to) walk(to());
    else if (event.key === "Enter") (panel.querySelector("a") || panel).focus();
    else if (event.key === "Escape") hold(t, false);
    else return;
    event.preventDefault();
  });
  panel.addEventListener("keydown", event => {
    if (event.key === "Escape" && at >= 0) walk(at);
  });
  panel.addEventListener("click", event => {
    const link = event.target.closest("a[data-to]");
    if (!link) return;
    event.preventDefault();
    held = true;
    spans[at].classList.add("held");
    document.querySelectorAll(".reached").forEach(span => span.classList.remove("reached", "here"));
    const target = spans[+link.dataset.to - data.first];
    void target.offsetWidth; // starts the animation again
    target.classList.add("reached", "here");
    target.scrollIntoView({ block: "center" });
    uncover(target);
  });

  // ---- controls
  function chooseLayer() {
    layer = layers[+form.elements.layer.value];
    const options = [["mean", layer.heads > 1 ? `mean of ${layer.heads}` : "0"]];
    if (layer.heads > 1)
      for (let h = 0; h < layer.heads; h++)
        options.push([h, `head ${h}${layer.gates ? ` (gate ${layer.gates[h].toFixed(2)})` : ""}`]);
    form.elements.head.replaceChildren(...options.map(([value, name]) => make("option", { value }, name)));
    chooseHead();
  }
  function chooseHead() {
    const head = form.elements.head.value;
    heads = head === "mean" ? [...Array(layer.heads).keys()] : [+head];
    tint();
    if (at >= 0) show(at);
  }
  form.elements.layer.addEventListener("input", chooseLayer);
  form.elements.head.addEventListener("input", chooseHead);
  form.addEventListener("input", event => event.target.name === "tint" && tint());
  form.addEventListener("submit", event => event.preventDefault());

  form.elements.tint.value = layer.steady ? "best" : "share";
  form.elements.layer.value = 0;
  spans[0]?.setAttribute("tabindex", 0);
  chooseLayer();
  panel.append(make("p", {}, "Point at a token to see where it looked."));
})();
