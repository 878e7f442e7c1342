// What goes wrong on purpose: one line with the remedy, and a code for programs.

export class EdgepressError extends Error {
  constructor(code, message, options) {
    super(message, options);
    this.name = "EdgepressError";
    this.code = code;
  }
}

const MEMORY = /memory|allocation|out of bounds|bad_alloc/i;

/** An engine's or browser's error as ours; ours stay as they are. */
export function told(error, what) {
  if (error instanceof EdgepressError || error?.name === "AbortError") return error;
  const seen = String(error?.message ?? error).split("\n")[0];
  if (error instanceof RangeError || MEMORY.test(seen)) {
    return new EdgepressError("no-memory", `the memory of this device is not enough (${seen}); close other pages, or export a smaller model`, { cause: error });
  }
  return new EdgepressError("failed", `${what}: ${seen}`, { cause: error });
}
