// Golden samples: read from golden.npz, and held against what a backend gives.
// Formats: .npy as NumPy's documentation tells it; .zip as PKWARE's APPNOTE does, stored or deflated.

import { EdgepressError } from "./errors.mjs";
import { DTYPES } from "./tensors.mjs";

const NUMPY = {
  f2: "float16", f4: "float32", f8: "float64", i1: "int8", i2: "int16", i4: "int32", i8: "int64", u1: "uint8", u2: "uint16",
  u4: "uint32", u8: "uint64", b1: "bool",
};

/** The cases of a `golden.npz`, whose keys are `INDEX/in/NAME` and `INDEX/out/NAME`. Throws `damaged`. */
export async function readGolden(bytes) {
  const cases = [];
  try {
    for (const [key, content] of await unzipped(bytes)) {
      const [, index, side, name] = /^(\d+)\/(in|out)\/(.+)\.npy$/s.exec(key);
      const sample = (cases[index] ??= { inputs: {}, outputs: {} });
      sample[side === "in" ? "inputs" : "outputs"][name] = readNpy(content);
    }
  } catch (error) {
    throw new EdgepressError("damaged", `golden.npz cannot be read (${error.message}); export the model again`, { cause: error });
  }
  return cases;
}

async function unzipped(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22; // the end record, which has no comment in NumPy's files
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  const files = [];
  for (let at = view.getUint32(end + 16, true), left = view.getUint16(end + 10, true); left; left--) {
    const [method, packed] = [view.getUint16(at + 10, true), view.getUint32(at + 20, true)];
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const key = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + name));
    const local = view.getUint32(at + 42, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    files.push([key, await inflated(bytes.subarray(start, start + packed), method)]);
    at += 46 + name + extra + comment;
  }
  return files;
}

async function inflated(bytes, method) {
  if (method === 0) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** An array of a `.npy` file, little-endian and in C order, as NumPy writes it. */
export function readNpy(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const wide = bytes[6] > 1; // version 2 has a longer header
  const start = (wide ? 12 : 10) + (wide ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder().decode(bytes.subarray(wide ? 12 : 10, start));
  const [, kind] = /'descr': '[<|=](\w\d)'/.exec(header);
  if (/'fortran_order': True/.test(header)) throw new Error("an array in Fortran's order");
  const shape = /'shape': \(([^)]*)\)/.exec(header)[1].split(",").filter((part) => part.trim()).map(Number);
  const [, Kind] = DTYPES[NUMPY[kind]];
  return { dtype: NUMPY[kind], shape, data: new Kind(bytes.slice(start).buffer) };
}

/** `max|y - g| / max|g|`; infinite where shapes differ, or where only one is finite. */
export function difference(output, golden) {
  if (String(output.shape) !== String(golden.shape)) return Infinity;
  let [apart, largest] = [0, 0];
  const [ys, gs] = [numbers(output), numbers(golden)];
  for (let i = 0; i < gs.length; i++) {
    const [y, g] = [ys[i], gs[i]];
    if (Number.isFinite(y) && Number.isFinite(g)) {
      apart = Math.max(apart, Math.abs(y - g));
      largest = Math.max(largest, Math.abs(g));
    } else if (!Object.is(y, g)) return Infinity;
  }
  return apart ? apart / Math.max(largest, 1e-12) : 0;
}

/** A tensor's values as numbers: int64 as the nearest double, float16 from its bits. */
export function numbers({ dtype, data }) {
  if (dtype === "float16") return Float64Array.from(data, half);
  return data instanceof BigInt64Array || data instanceof BigUint64Array ? Float64Array.from(data, Number) : data;
}

function half(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}
