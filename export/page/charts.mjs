// Charts as elements that read well aloud: bars are a list, a heat map is a table, a histogram is a described picture.

import { el, inMs, problem } from "./dom.mjs";
import { numbers } from "./golden.mjs";

const TOP = 5;

/** The likeliest classes of logits [1, classes], as [name, share]; outputs that are shares already stay as they are. */
function ranked(tensor, names = []) {
  const scores = Array.from(numbers(tensor));
  const sum = scores.reduce((a, b) => a + b, 0);
  const areShares = scores.every((score) => score >= 0) && Math.abs(sum - 1) < 1e-3;
  const most = Math.max(...scores);
  const exponents = areShares ? scores : scores.map((score) => Math.exp(score - most));
  const total = exponents.reduce((a, b) => a + b, 0);
  return exponents.map((e, i) => [String(names[i] ?? `class ${i}`), e / total]).sort((a, b) => b[1] - a[1]).slice(0, TOP);
}

/** The class that is likeliest, in large, above the bars; `nodes` are to be shown, `tell(scores)` fills them. */
export function verdict(names) {
  const [best, result, note] = [el("p", { class: "best", "aria-live": "polite" }), el("div"), problem()];
  const tell = (scores) => {
    const found = ranked(scores, names);
    best.textContent = found[0][0];
    result.replaceChildren(bars(found));
  };
  const clear = (text) => {
    best.textContent = "";
    result.replaceChildren(el("p", { class: "quiet" }, text));
  };
  return { nodes: [best, result, note], note, tell, clear };
}

function bars(found) {
  return el("ol", { class: "bars" }, ...found.map(([name, share]) => {
    const fill = el("span", { class: "fill" });
    fill.style.width = `${100 * share}%`;
    return el("li", {}, el("span", { class: "name", title: name }, name), el("span", { class: "track", "aria-hidden": "true" }, fill),
      el("span", { class: "share" }, `${(100 * share).toFixed(1)} %`));
  }));
}

/** Similarities of each with each, as numbers on colours. */
export function heatMap(names, values) {
  const head = el("tr", {}, el("td"), ...names.map((name, i) => el("th", { scope: "col", title: name }, String(i + 1))));
  const lines = values.map((line, i) => el("tr", {}, el("th", { scope: "row", title: names[i] }, String(i + 1)), ...line.map((value, j) => {
    const cell = el("td", { title: `${names[i]} – ${names[j]}` }, value.toFixed(2).replace(/^-(?=0\.00)/, ""));
    cell.style.setProperty("--heat", Math.max(0, Math.min(1, value)));
    return cell;
  })));
  return el("table", { class: "heat" }, el("caption", {}, "Similarity of meaning: 1 is the same, 0 has nothing in common"), el("tbody", {}, head, ...lines));
}

export function quantile(values, share) {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)];
}

const SVG = "http://www.w3.org/2000/svg";
const BINS = 24;

/** How often a call took how long. The slowest twentieth is left out of the picture, so that one hiccup does not squeeze it. */
export function histogram(times) {
  const [low, high] = [Math.min(...times), quantile(times, 0.95)];
  const counts = new Array(BINS).fill(0);
  for (const t of times) if (t <= high) counts[Math.min(BINS - 1, Math.floor(((t - low) / (high - low || 1)) * BINS))]++;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${BINS * 10} 60`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Latencies of ${times.length} calls from ${inMs(low)} to ${inMs(Math.max(...times))}`);
  counts.forEach((count, i) => {
    const height = count && 4 + (56 * count) / Math.max(...counts);
    const bar = document.createElementNS(SVG, "rect");
    for (const [key, value] of Object.entries({ x: i * 10 + 1, y: 60 - height, width: 8, height, rx: 1.5 })) bar.setAttribute(key, value);
    svg.append(bar);
  });
  return el("figure", {}, svg, el("figcaption", {}, el("span", {}, inMs(low)), el("span", {}, inMs(high))));
}
