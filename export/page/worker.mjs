// The worker: ONNX Runtime's session lives here, so that the page never freezes. One backend a worker.

import { told } from "./errors.mjs";
import { difference, readGolden } from "./golden.mjs";
import { DTYPES } from "./tensors.mjs";

let ort, session, cases, encoder;
let last = Promise.resolve(); // a session runs one call at a time

// Backend -> ONNX Runtime's script, its glue, and the execution provider.
const BUILDS = {
  "webgpu": ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "webgpu"],
  "wasm-threads": ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "wasm"],
  "wasm": ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "wasm"],
};

const COMMANDS = { start, selfTest, golden, run, tokenize, time };

addEventListener("message", ({ data: { id, command, ...given } }) => {
  last = last.then(async () => {
    try {
      postMessage({ id, result: await COMMANDS[command](given) });
    } catch (error) {
      const { code, message } = told(error, "ONNX Runtime stopped");
      postMessage({ id, error: { code, message } });
    }
  });
});

async function start({ base, backend, threads, model, wasm, golden }) {
  const [script, glue, provider] = BUILDS[backend];
  ort = await import(new URL(script, base));
  ort.env.logLevel = "error";
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.wasmPaths = { mjs: new URL(glue, base).href };
  ort.env.wasm.numThreads = threads;
  session = await ort.InferenceSession.create(model, {
    executionProviders: [provider], graphOptimizationLevel: "all", logSeverityLevel: 3,
  });
  cases = golden ? await readGolden(golden) : [];
}

/** The largest difference of any golden output, and what the first call took in ms. */
async function selfTest() {
  let [worst, firstRun] = [cases.length ? 0 : NaN, NaN];
  for (const { inputs, outputs } of cases) {
    const begun = performance.now();
    const given = await run({ inputs });
    if (Number.isNaN(firstRun)) firstRun = performance.now() - begun;
    for (const [name, expected] of Object.entries(outputs)) {
      const apart = given[name] ? difference(given[name], expected) : Infinity;
      worst = apart > worst || Number.isNaN(apart) ? apart : worst;
    }
  }
  return { difference: worst, firstRun };
}

function golden() {
  return cases;
}

async function run({ inputs }) {
  const outputs = await session.run(feeds(inputs));
  const found = {};
  for (const [name, tensor] of Object.entries(outputs)) {
    const data = await tensor.getData(); // WebGPU's lie on the device
    const [, Kind] = DTYPES[tensor.type];
    const held = data instanceof Kind ? data : new Kind(data.buffer, data.byteOffset, data.length);
    found[name] = { dtype: tensor.type, shape: [...tensor.dims], data: held.slice() };
    tensor.dispose();
  }
  return found;
}

function feeds(inputs) {
  const tensors = Object.entries(inputs).map(([name, { dtype, shape, data }]) => [name, new ort.Tensor(DTYPES[dtype][0], data, shape)]);
  return Object.fromEntries(tensors);
}

/** Latencies of `runs` calls in ms, without the way between page and worker. */
async function time({ inputs, runs }) {
  const given = feeds(inputs);
  const taken = [];
  for (let i = 0; i < runs; i++) {
    const begun = performance.now();
    const outputs = await session.run(given);
    for (const tensor of Object.values(outputs)) await tensor.getData();
    taken.push(performance.now() - begun);
    for (const tensor of Object.values(outputs)) tensor.dispose();
  }
  return taken;
}

async function tokenize({ text, base, tokenizer, ports }) {
  if (!encoder) {
    const { Tokenizer } = await import(new URL("tokenizers.min.mjs", base));
    const config = JSON.parse(new TextDecoder().decode(tokenizer));
    encoder = { config, library: new Tokenizer(config, {}) };
  }
  const ids = shortened(text, encoder);
  const known = { input_ids: ids, attention_mask: ids.map(() => 1), token_type_ids: ids.map(() => 0) };
  const tensors = ports.filter((port) => known[port.name]).map(({ name, dtype }) => {
    const [, Kind] = DTYPES[dtype];
    const data = Kind === BigInt64Array ? Kind.from(known[name], BigInt) : Kind.from(known[name]);
    return [name, { dtype, shape: [1, ids.length], data }];
  });
  return Object.fromEntries(tensors);
}

/** A text's tokens as Python's library gives them: the one in JavaScript neither cuts long texts nor knows [UNK] in word lists. */
function shortened(text, { config: { truncation, model }, library }) {
  const unknown = model.vocab?.[model.unk_token];
  const ids = library.encode(text).ids.map((id) => id ?? unknown);
  const most = truncation?.max_length ?? Infinity;
  if (ids.length <= most) return ids;
  const bare = library.encode(text, { add_special_tokens: false }).ids.map((id) => id ?? unknown);
  const [first, held] = [ids.indexOf(bare[0]), most - (ids.length - bare.length)];
  const kept = truncation.direction === "Left" ? bare.slice(-held) : bare.slice(0, held);
  return [...ids.slice(0, first), ...kept, ...ids.slice(first + bare.length)];
}
