/** edgepress in the browser: open a model that `edgepress export --to web` wrote, run it in a worker, offline. */

export type Dtype =
  | "float32" | "float64" | "float16" | "int8" | "int16" | "int32" | "int64"
  | "uint8" | "uint16" | "uint32" | "uint64" | "bool";

export type Data =
  | Float32Array | Float64Array | Int8Array | Int16Array | Int32Array | BigInt64Array
  | Uint8Array | Uint16Array | Uint32Array | BigUint64Array;

/** An input or output: in `shape` a string is a free axis (`batch`, `sequence`). */
export interface Port { name: string; dtype: Dtype; shape: (number | string)[] }

/** Values of one dtype, row by row. float16 is held as its bits, bool as 0 and 1. */
export interface Tensor { dtype: Dtype; shape: number[]; data: Data }

type Nested = number | bigint | boolean | Nested[];

/** What a call takes for a port: a tensor, its data alone where the shape follows from the port, or nested arrays. */
export type Input = { data: Data; shape: number[] } | Data | Nested;

/** In the order in which they are tried. `webgpu` needs a site that was written with --webgpu. */
export type Backend = "webgpu" | "wasm-threads" | "wasm";

/**
 * A backend that was passed over: `absent` is not in this browser or not in the site, `failed` did not start,
 * `wrong` gave other outputs than the golden ones.
 */
export interface Refused { backend: Backend; why: "absent" | "failed" | "wrong"; message: string }

/** `download` counts bytes; `start` and `self-test` tell the backend that is tried. */
export interface Progress {
  phase: "download" | "start" | "self-test";
  loaded: number;
  total: number;
  backend?: Backend;
}

export interface LoadOptions {
  /** Only these, in this order. */
  backends?: Backend[];
  /** Threads of `wasm-threads`; at most 4, and as many as the machine has. */
  threads?: number;
  /** Keep the files for the next time and for offline use (true). */
  keep?: boolean;
  onProgress?: (event: Progress) => void;
  signal?: AbortSignal;
}

/**
 * What is wrong, in one line with the remedy. `code`: `no-wasm` (no WebAssembly SIMD), `no-memory`, `network`, `missing` (a
 * file), `damaged` (a file is not the one that was exported), `no-backend`, `wrong-input`, `no-tokenizer`, `failed`,
 * `disposed`.
 */
export class EdgepressError extends Error { readonly code: string }

export interface Model {
  /** The manifest, artifact.json. */
  readonly artifact: Record<string, any>;
  readonly inputs: Port[];
  readonly outputs: Port[];
  readonly backend: Backend;
  readonly threads: number;
  readonly refused: Refused[];
  /** The largest difference to the golden outputs, relative to their largest magnitude; NaN without golden samples. */
  readonly difference: number;
  /** Milliseconds: files here, engine and session ready, the first call. */
  readonly times: { download: number; start: number; firstRun: number };
  /** Bytes that came over the network, decompressed; 0 where all was kept. */
  readonly downloaded: number;
  /** Run the model once; calls wait for each other. Rejects with `wrong-input` where a name, dtype or shape does not fit. */
  run(inputs: Record<string, Input>): Promise<Record<string, Tensor>>;
  /** A text as the inputs of a text model. Rejects with `no-tokenizer` where the site has none. */
  tokenize(text: string): Promise<Record<string, Tensor>>;
  /** Latencies of `runs` calls in milliseconds, taken in the worker around the engine's call alone. */
  time(inputs: Record<string, Input>, runs: number): Promise<number[]>;
  /** The golden samples: inputs and the outputs that the file gave where it was made. */
  golden(): Promise<{ inputs: Record<string, Tensor>; outputs: Record<string, Tensor> }[]>;
  /** The bytes of another file of the site (`labels.json`), verified; undefined where it has none. */
  asset(name: string): Promise<Uint8Array | undefined>;
  /** End the worker and free its memory. */
  dispose(): void;
}

/**
 * Open the model of a site's folder. Every file is compared with the sha256 of the manifest before it is used, and every
 * backend replays the golden samples before it is taken.
 *
 * @example
 * const model = await load("./digits/", { onProgress: ({ loaded, total }) => (bar.value = loaded / total) });
 * const { logits } = await model.run({ image: pixels });
 */
export function load(url: string | URL, options?: LoadOptions): Promise<Model>;

/**
 * Bring the newest version of a site that is kept, whole or not at all; true where there was one, which the next load
 * opens. Pages that are open go on with theirs. Where nothing is kept (see keepOffline) nothing is brought.
 */
export function update(url: string | URL): Promise<boolean>;

/** Have every file of a site kept for offline use; false where the browser does not keep any (no HTTPS, no room). */
export function keepOffline(url: string | URL): Promise<boolean>;
