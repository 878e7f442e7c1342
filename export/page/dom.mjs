// Small helpers of the views. Text is set as text, never as markup: a label may hold anything.

/** An element: `onclick` and its like become listeners, the rest attributes; what is false or undefined is left out. */
export function el(name, given = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (typeof value === "function") node.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter(Boolean));
  return node;
}

/** `work`, one call after the other; of those that wait only the last is done. `note` tells what went wrong. */
export function latest(work, note) {
  let [running, next] = [false, undefined];
  return async (...given) => {
    next = given;
    if (running) return;
    running = true;
    while (next) {
      const now = next;
      next = undefined;
      try {
        await work(...now);
        note.textContent = "";
      } catch (error) {
        note.textContent = error.message;
      }
    }
    running = false;
  };
}

export const problem = () => el("p", { class: "problem", role: "alert" });

/** An asset of the site that is JSON, or undefined. */
export async function json(model, name) {
  const bytes = await model.asset(name);
  return bytes && JSON.parse(new TextDecoder().decode(bytes));
}

export function inBytes(count) {
  const [scale, unit] = count < 1e6 ? [1e3, "kB"] : [1e6, "MB"];
  return `${Number((count / scale).toPrecision(3))} ${unit}`;
}

export function inMs(ms) {
  if (!Number.isFinite(ms)) return "unknown";
  return ms < 1000 ? `${ms.toFixed(ms < 10 ? 2 : ms < 100 ? 1 : 0)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
