// The facts beside the view: what this model costs here, how it was checked, and what was done to it.

import { histogram, quantile } from "./charts.mjs";
import { el, inBytes, inMs } from "./dom.mjs";
import { filled } from "./form.mjs";

const CALLS = 50;
const PATIENCE = 1500; // ms that a measurement may take, about

/** Show the facts, start to measure; returns what tells the offline state. */
export function show(model, root) {
  const { artifact, times, backend, threads, refused } = model;
  const size = artifact.files.filter(({ role }) => role === "model").reduce((sum, { bytes }) => sum + bytes, 0);
  const came = model.downloaded ? `${inBytes(model.downloaded)} loaded` : "all was kept from before";
  const offline = el("dd", {}, "keeping the files …");
  const steps = artifact.history.map(({ name, note }) => el("li", {}, el("b", {}, name), note && ` ${note}`));
  root.replaceChildren(
    el("h2", {}, "Facts"),
    el("dl", {}, ...[
      ["Model", `${inBytes(size)}; ${came}; every file verified`],
      ["Ready in", `${inMs(times.download + times.start)}: files ${inMs(times.download)}, engine ${inMs(times.start)}; first call ${inMs(times.firstRun)}`],
      ["Runs on", `${backend}, ${threads === 1 ? "1 thread" : `${threads} threads`}`, ...refused.map(({ backend: other, message }) => el("small", {}, `${other}: ${message}`))],
      ["Checked", tested(model)],
    ].flatMap(([term, ...told]) => [el("dt", {}, term), el("dd", {}, ...told)]), el("dt", {}, "Offline"), offline),
    latency(model),
    el("details", { hidden: !steps.length }, el("summary", {}, "What was done to it"), el("ol", {}, ...steps)),
  );
  return (text) => (offline.textContent = text);
}

function tested({ difference, artifact }) {
  if (Number.isNaN(difference)) return "the site has no golden sample: nothing to check against";
  return `answers within ${difference.toExponential(1)} of the golden ones; ${artifact.tolerance.toExponential(0)} is allowed`;
}

function latency(model) {
  const [told, picture] = [el("p", { "aria-live": "polite" }), el("div", { class: "histogram" })];
  const measure = async () => {
    button.disabled = true;
    told.textContent = "measuring …";
    try {
      const [golden] = await model.golden();
      const inputs = golden?.inputs ?? Object.fromEntries(model.inputs.map((port) => [port.name, filled(port, {})]));
      const [one] = await model.time(inputs, 1);
      const found = await model.time(inputs, Math.max(5, Math.min(CALLS, Math.round(PATIENCE / one))));
      const batch = Object.values(inputs)[0].shape[0] ?? 1;
      told.textContent = `median ${inMs(quantile(found, 0.5))}, p90 ${inMs(quantile(found, 0.9))} of ${found.length} calls${batch > 1 ? `, a batch of ${batch}` : ""}`;
      picture.replaceChildren(histogram(found));
    } catch (error) {
      told.textContent = `it cannot be measured: ${error.message}`;
    }
    button.disabled = false;
  };
  const button = el("button", { onclick: measure }, "Measure again");
  measure();
  return el("section", { class: "latency" }, el("h3", {}, "Latency"), told, picture, button);
}
