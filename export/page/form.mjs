// Any other model: a form made from the manifest's ports.

import { el, latest, problem } from "./dom.mjs";
import { numbers } from "./golden.mjs";
import { DTYPES, inWords, size } from "./tensors.mjs";

const SHOWN = 12; // values of an output
const HALF = 0x3800; // the bits of 0.5 as float16

export const fits = () => true;

/** A tensor of zeros or of random values: floats from -1 to 1, integers 0 or 1, which every table of indices has. */
export function filled({ dtype, shape }, axes, random = false) {
  const sizes = shape.map((axis) => (typeof axis === "string" ? (axes[axis] ?? 1) : axis));
  const [, Kind] = DTYPES[dtype];
  const coin = () => Math.round(Math.random());
  const value = { float32: () => 2 * Math.random() - 1, float64: () => 2 * Math.random() - 1, float16: () => HALF * coin() }[dtype] ?? coin;
  const exact = Kind === BigInt64Array || Kind === BigUint64Array ? BigInt : Number;
  return { dtype, shape: sizes, data: Kind.from({ length: size(sizes) }, () => exact(random ? value() : 0)) };
}

export async function show(model, root) {
  const [golden] = await model.golden();
  const [result, note] = [el("div", { class: "outputs", "aria-live": "polite" }), problem()];
  const free = [...new Set(model.inputs.flatMap(({ shape }) => shape.filter((axis) => typeof axis === "string")))];
  const axes = Object.fromEntries(free.map((axis) => [axis, el("input", { type: "number", min: 1, value: 1, id: `axis-${axis}` })]));
  const ports = model.inputs.map((port) => field(port, golden));
  const lengths = () => Object.fromEntries(free.map((axis) => [axis, Math.max(1, Number(axes[axis].value) || 1)]));

  const run = latest(async () => {
    const inputs = Object.fromEntries(ports.map(({ port, value }) => [port.name, value(lengths())]));
    const begun = performance.now();
    const outputs = await model.run(inputs);
    const took = performance.now() - begun;
    result.replaceChildren(el("h2", {}, "Outputs"), ...Object.entries(outputs).map(output), el("p", { class: "quiet" }, `in ${took.toFixed(1)} ms, with the way to the worker`));
  }, note);
  const submit = (event) => {
    event.preventDefault();
    run();
  };
  const sizes = el("fieldset", {}, el("legend", {}, "Free axes"), el("p", { class: "quiet" }, "For zeros and random values."),
    ...free.map((axis) => el("label", { for: `axis-${axis}` }, axis, " ", axes[axis])));
  root.replaceChildren(el("div", { class: "two" },
    el("form", { onsubmit: submit }, el("h2", {}, "Inputs"), ...ports.map(({ node }) => node), free.length && sizes, el("button", { class: "main" }, "Run")),
    el("div", {}, result, note)));
  await run();
}

/** One input's choice of values: `value(axes)` is what is chosen. */
function field(port, golden) {
  const sample = golden?.inputs[port.name];
  const kinds = { ...(sample && { golden: "the sample of the model" }), zeros: "zeros", random: "random values", typed: "typed values" };
  const area = el("textarea", { rows: 3, hidden: true, "aria-label": `${port.name} as JSON`, placeholder: "[[1, 2, 3]]", spellcheck: "false" });
  const select = el("select", { id: `fill-${port.name}`, onchange: () => (area.hidden = select.value !== "typed") },
    ...Object.entries(kinds).map(([value, text]) => el("option", { value }, text)));
  const value = (axes) => {
    if (select.value === "golden") return sample;
    if (select.value !== "typed") return filled(port, axes, select.value === "random");
    try {
      return JSON.parse(area.value);
    } catch (error) {
      throw new Error(`${port.name} is no JSON; write numbers in brackets, like [[1, 2, 3]] for ${inWords(port)}`);
    }
  };
  const legend = el("legend", {}, port.name, " ", el("code", {}, `${port.dtype}[${port.shape.join(", ")}]`));
  return { port, value, node: el("fieldset", {}, legend, el("label", { for: select.id }, "Fill with ", select), area) };
}

function output([name, tensor]) {
  const values = numbers(tensor);
  let [low, high, sum] = [Infinity, -Infinity, 0];
  for (const value of values) [low, high, sum] = [Math.min(low, value), Math.max(high, value), sum + value];
  const short = (x) => String(Number(x.toPrecision(5)));
  const first = Array.from(values.slice(0, SHOWN), short).join(", ") + (values.length > SHOWN ? ", …" : "");
  return el("section", {}, el("h3", {}, name, " ", el("code", {}, `${tensor.dtype}[${tensor.shape.join(", ")}]`)),
    el("p", { class: "quiet" }, `from ${short(low)} to ${short(high)}, mean ${short(sum / values.length)}`), el("pre", {}, first));
}
