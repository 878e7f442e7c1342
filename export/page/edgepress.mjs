// edgepress in the browser: load(url) opens a site's model in a worker. Types and examples: edgepress.d.mts.

import { EdgepressError, told } from "./errors.mjs";
import { bytesOf, complete, keptVersion, openSite, partsOf } from "./site.mjs";
import { tensorsOf } from "./tensors.mjs";

export { EdgepressError };

const MODEL = "model.onnx";
const THREADS = 4; // more gained nothing on models of this size
// A function with one SIMD instruction, i8x16.splat.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

// Backend -> its WebAssembly, and why it is not to be had here; "" where it is.
const BACKENDS = {
  webgpu: {
    wasm: "ort-wasm-simd-threaded.asyncify.wasm",
    lacks: async () => ((await navigator.gpu?.requestAdapter()) ? "" : "this browser has no WebGPU"),
  },
  "wasm-threads": {
    wasm: "ort-wasm-simd-threaded.wasm",
    lacks: async () => {
      if (!globalThis.crossOriginIsolated) return "the page is not isolated, which threads need; it is when it is loaded again";
      return navigator.hardwareConcurrency > 1 ? "" : "this machine has one core";
    },
  },
  wasm: { wasm: "ort-wasm-simd-threaded.wasm", lacks: async () => "" },
};

export async function load(url, options = {}) {
  const { backends = Object.keys(BACKENDS), onProgress = () => {}, signal, keep = true } = options;
  if (!globalThis.WebAssembly || !WebAssembly.validate(new Uint8Array(SIMD))) {
    throw new EdgepressError("no-wasm", "this browser has no WebAssembly with SIMD; take one from 2023 or later");
  }
  const unknown = backends.find((backend) => !Object.hasOwn(BACKENDS, backend));
  if (unknown) throw new EdgepressError("wrong-input", `there is no backend '${unknown}'; known: ${Object.keys(BACKENDS).join(", ")}`);
  const site = await openSite(url, { signal });
  const refused = [];
  let files; // downloaded for the first backend that is to be had
  for (const backend of backends) {
    const lack = partsOf(site, BACKENDS[backend].wasm).length ? await BACKENDS[backend].lacks() : "the site was written without it";
    if (lack) {
      refused.push({ backend, why: "absent", message: lack });
      continue;
    }
    files = await download(site, BACKENDS[backend].wasm, files, { onProgress, signal, keep });
    try {
      return await opened(site, backend, files, { ...options, onProgress, keep }, refused);
    } catch (error) {
      if (error.name === "AbortError" || ["damaged", "missing", "network"].includes(error.code)) throw error;
      refused.push({ backend, why: error.code === "wrong" ? "wrong" : "failed", message: error.message });
    }
  }
  const reasons = refused.map(({ backend, message }) => `${backend}: ${message}`).join("; ");
  const memory = refused.some(({ message }) => message.includes("memory"));
  throw new EdgepressError(memory ? "no-memory" : "no-backend", `the model does not run in this browser; ${reasons}`);
}

/** The model, the engine and what else the worker needs, each verified; what an earlier backend had is not fetched again. */
async function download(site, wasm, had = {}, { onProgress, signal, keep }) {
  const begun = performance.now();
  const names = [MODEL, wasm, "golden.npz", "tokenizer.json"].filter((name) => partsOf(site, name).length && !had[name]);
  const entries = names.flatMap((name) => partsOf(site, name));
  const total = entries.reduce((sum, file) => sum + file.bytes, 0);
  const loaded = new Map();
  const tell = (file, bytes) => {
    loaded.set(file.name, bytes);
    onProgress({ phase: "download", loaded: [...loaded.values()].reduce((a, b) => a + b, 0), total });
  };
  const found = await Promise.all(names.map(async (name) => [name, await bytesOf(site, name, { tell, signal, keep })]));
  return { ...had, ...Object.fromEntries(found), took: (had.took ?? 0) + performance.now() - begun };
}

async function opened(site, backend, files, { threads, onProgress, signal, keep }, refused) {
  const worker = new Caller(new URL("./worker.mjs", import.meta.url), signal);
  try {
    const count = backend === "wasm-threads" ? (threads ?? Math.min(THREADS, navigator.hardwareConcurrency)) : 1;
    const begun = performance.now();
    onProgress({ phase: "start", loaded: 0, total: 1, backend });
    await worker.call("start", {
      base: site.base.href, backend, threads: count, model: files[MODEL], wasm: files[BACKENDS[backend].wasm], golden: files["golden.npz"],
    });
    const started = performance.now() - begun;
    onProgress({ phase: "self-test", loaded: 0, total: 1, backend });
    const seen = await worker.call("selfTest", {});
    const { tolerance } = site.manifest;
    if (!Number.isNaN(seen.difference) && !(seen.difference <= tolerance)) {
      const message = `the golden samples come out ${seen.difference.toExponential(1)} apart, ${tolerance.toExponential(0)} is allowed`;
      throw new EdgepressError("wrong", message);
    }
    return model(site, worker, {
      backend, threads: count, refused, keep, difference: seen.difference,
      times: { download: files.took, start: started, firstRun: seen.firstRun }, tokenizer: files["tokenizer.json"],
    });
  } catch (error) {
    worker.end();
    throw error;
  }
}

function model(site, worker, { tokenizer, keep, ...facts }) {
  const { manifest, base } = site;
  const { inputs: ports, outputs } = manifest;
  return Object.freeze({
    artifact: manifest, inputs: ports, outputs, downloaded: site.downloaded, ...facts,
    run: async (inputs) => worker.call("run", { inputs: tensorsOf(ports, inputs) }),
    time: async (inputs, runs) => worker.call("time", { inputs: tensorsOf(ports, inputs), runs }),
    golden: () => worker.call("golden", {}),
    tokenize: async (text) => {
      if (!tokenizer) throw new EdgepressError("no-tokenizer", "the site has no tokenizer.json; give the inputs as arrays");
      return worker.call("tokenize", { text, base: base.href, tokenizer, ports });
    },
    asset: async (name) => (partsOf(site, name).length ? bytesOf(site, name, { keep }) : undefined),
    dispose: () => worker.end(),
  });
}

/** A worker whose commands are promises. */
class Caller {
  #worker;
  #waiting = new Map();
  #next = 0;

  constructor(url, signal) {
    this.#worker = new Worker(url, { type: "module" });
    this.#worker.addEventListener("message", ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      error ? reject(new EdgepressError(error.code, error.message)) : resolve(result);
    });
    const stopped = (event) => this.end(told(new Error(event.message || "it cannot be loaded"), "the worker stopped"));
    this.#worker.addEventListener("error", stopped);
    signal?.addEventListener("abort", () => this.end(signal.reason));
  }

  call(command, given) {
    if (!this.#worker) throw new EdgepressError("disposed", "this model was disposed of; load it again");
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, command, ...given });
    });
  }

  end(reason = new EdgepressError("disposed", "this model was disposed of; load it again")) {
    this.#worker?.terminate();
    this.#worker = undefined;
    for (const { reject } of this.#waiting.values()) reject(reason);
    this.#waiting.clear();
  }
}

export async function update(url) {
  const newest = await openSite(url, { fresh: true });
  const kept = await keptVersion(newest);
  return kept !== undefined && kept !== newest.version && complete(newest);
}

export async function keepOffline(url) {
  return complete(await openSite(url));
}
