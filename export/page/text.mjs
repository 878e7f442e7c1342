// Texts: sentences and how near their meanings are, or one text and its classes.

import { heatMap, verdict } from "./charts.mjs";
import { el, json, latest, problem } from "./dom.mjs";
import { numbers } from "./golden.mjs";

const PAUSE = 200; // ms without a key before the model runs
const MOST = 6;
const SENTENCES = [
  "A cat sleeps on the warm windowsill.", "The kitten is taking a nap in the sun.", "Share prices fell sharply on Monday.",
  "The stock market had a bad start to the week.",
];

const reads = (model) => model.inputs.some(({ name }) => name === "input_ids") && model.artifact.files.some(({ name }) => name === "tokenizer.json");

// A sentence's vector, its tokens' vectors, or scores; undefined where there is none of them.
function outputOf({ outputs }) {
  const floats = outputs.filter(({ dtype }) => dtype.startsWith("float"));
  const rank = (count) => floats.find(({ shape }) => shape.length === count);
  return floats.find(({ name }) => name === "sentence_embedding") ?? rank(2) ?? rank(3);
}

export const fits = (model) => reads(model) && outputOf(model) !== undefined;

export async function show(model, root) {
  const [names, output] = [await json(model, "labels.json"), outputOf(model)];
  const classifies = names && output.shape.length === 2;
  await (classifies ? classes(model, output, names, root) : similarities(model, output, root));
}

async function classes(model, output, names, root) {
  const answer = verdict(names);
  const area = el("textarea", { rows: 4, "aria-label": "Text" });
  area.value = SENTENCES[0];
  const classify = latest(async () => {
    answer.tell((await model.run(await model.tokenize(area.value)))[output.name]);
  }, answer.note);
  area.addEventListener("input", afterPause(classify));
  root.replaceChildren(el("div", { class: "two" }, area, el("div", {}, ...answer.nodes)));
  await classify();
}

async function similarities(model, output, root) {
  const [list, map, note] = [el("ol", { class: "sentences" }), el("div", { class: "map" }), problem()];
  const vectors = new Map(); // text -> unit vector; what was run once is not run again
  const texts = () => Array.from(list.querySelectorAll("input"), (input) => input.value.trim());

  const compare = latest(async () => {
    const written = texts().filter(Boolean);
    // Each alone: a model that quantizes its activations as it runs gives other numbers in a batch.
    for (const text of written) if (!vectors.has(text)) vectors.set(text, await embedded(model, output, text));
    const found = written.map((text) => vectors.get(text));
    map.replaceChildren(heatMap(written, found.map((a) => found.map((b) => a.reduce((sum, x, i) => sum + x * b[i], 0)))));
  }, note);
  const typed = afterPause(compare);

  const add = el("button", { onclick: () => (append("").focus(), compare()) }, "Add a sentence");
  const changed = () => {
    add.disabled = list.children.length >= MOST;
    for (const [i, line] of [...list.children].entries()) {
      line.querySelector("input").setAttribute("aria-label", `Sentence ${i + 1}`);
      line.querySelector("button").setAttribute("aria-label", `Remove sentence ${i + 1}`);
    }
  };
  const append = (text) => {
    const input = el("input", { type: "text", value: text, placeholder: "Write a sentence", oninput: typed });
    const remove = () => {
      line.remove();
      changed();
      (list.querySelector("input") ?? add).focus();
      compare();
    };
    const line = el("li", {}, input, el("button", { class: "plain", onclick: remove }, "×"));
    list.append(line);
    changed();
    return input;
  };

  const pools = output.shape.length === 3 ? "This model gives a vector for each token; here they are averaged." : "";
  root.replaceChildren(list, add, note, map, el("p", { class: "quiet" }, pools));
  SENTENCES.forEach(append);
  await compare();
}

/** The unit vector of a text; vectors of tokens are averaged where the mask is 1. */
async function embedded(model, output, text) {
  const inputs = await model.tokenize(text);
  const found = (await model.run(inputs))[output.name];
  const values = numbers(found);
  const width = found.shape.at(-1);
  const vector = new Float64Array(width);
  const mask = found.shape.length === 3 && inputs.attention_mask ? numbers(inputs.attention_mask) : [1];
  for (let i = 0; i < values.length; i++) vector[i % width] += values[i] * (mask[Math.floor(i / width)] ?? 1);
  const length = Math.hypot(...vector) || 1;
  return vector.map((x) => x / length);
}

function afterPause(work) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, PAUSE);
  };
}
