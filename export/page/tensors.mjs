// Values in and out of a model: what a caller gives becomes the tensor that a port takes, or is refused in one line.

import { EdgepressError } from "./errors.mjs";

// NumPy's name of a dtype -> ONNX Runtime's name, and the array that holds it. float16 is held as its bits.
export const DTYPES = {
  float32: ["float32", Float32Array], float64: ["float64", Float64Array], float16: ["float16", Uint16Array],
  int8: ["int8", Int8Array], int16: ["int16", Int16Array], int32: ["int32", Int32Array], int64: ["int64", BigInt64Array],
  uint8: ["uint8", Uint8Array], uint16: ["uint16", Uint16Array], uint32: ["uint32", Uint32Array],
  uint64: ["uint64", BigUint64Array], bool: ["bool", Uint8Array],
};

export const inWords = (port) => `${port.name} ${port.dtype}[${port.shape.join(", ")}]`;

export const size = (shape) => shape.reduce((product, length) => product * length, 1);

const refuse = (message) => {
  throw new EdgepressError("wrong-input", message);
};

/** The tensors of a call. Throws `wrong-input` where a name is unknown or missing, or a dtype or shape does not fit. */
export function tensorsOf(ports, inputs) {
  const expected = `expected ${ports.map(inWords).join(", ")}`;
  for (const name of Object.keys(inputs)) {
    if (!ports.some((port) => port.name === name)) refuse(`there is no input '${name}'; ${expected}`);
  }
  const missing = ports.filter((port) => !(port.name in inputs));
  if (missing.length) refuse(`missing the input ${missing.map((port) => `'${port.name}'`).join(", ")}; ${expected}`);
  return Object.fromEntries(ports.map((port) => [port.name, tensorOf(port, inputs[port.name])]));
}

/** The tensor of one port, from a tensor, its data alone, or nested arrays. */
export function tensorOf(port, value) {
  const [, Kind] = DTYPES[port.dtype];
  const given = value?.data && value.shape ? value : flattened(port, value);
  const fits = given.shape.length === port.shape.length || !port.shape.length;
  const seen = `input '${port.name}' is ${given.dtype ?? given.data.constructor.name}[${given.shape.join(", ")}]`;
  if (!fits || port.shape.some((axis, i) => typeof axis === "number" && axis !== given.shape[i])) {
    refuse(`${seen}; expected ${inWords(port)}`);
  }
  if (size(given.shape) !== given.data.length) refuse(`${seen} with ${given.data.length} values; expected ${size(given.shape)}`);
  if ((given.dtype ?? port.dtype) !== port.dtype || !(given.data instanceof Kind)) refuse(`${seen}; expected ${inWords(port)}`);
  return { dtype: port.dtype, shape: [...given.shape], data: given.data };
}

function flattened(port, value) {
  const [, Kind] = DTYPES[port.dtype];
  if (ArrayBuffer.isView(value)) return { data: value, shape: shapeOf(port, value.length) };
  const shape = [];
  for (let inner = value; Array.isArray(inner); inner = inner[0]) shape.push(inner.length);
  const flat = [value].flat(Infinity);
  try {
    const data = Kind === BigInt64Array || Kind === BigUint64Array ? Kind.from(flat, BigInt) : Kind.from(flat, Number);
    return { data, shape };
  } catch (error) {
    return refuse(`input '${port.name}' holds ${String(flat[0]).slice(0, 40)}; expected numbers for ${inWords(port)}`);
  }
}

/** The shape of a flat array: one free axis takes what the others leave; more than one is 1, but the last. */
function shapeOf(port, length) {
  const free = port.shape.flatMap((axis, i) => (typeof axis === "string" ? [i] : []));
  const shape = port.shape.map((axis) => (typeof axis === "string" ? 1 : axis));
  if (free.length) shape[free.at(-1)] = length / size(shape);
  return shape;
}
