// The page: opens the model, shows what goes on, picks the view, keeps the site for offline use. Most of what it needs is
// imported late, so that a file that is missing becomes a message and not a blank page.

import { el, inBytes } from "./dom.mjs";

const SITE = new URL("./", location.href);
const VIEWS = ["image", "text", "form"]; // the first that fits; a form fits always
const TITLES = {
  "no-wasm": "This browser is too old", "no-memory": "There is not enough memory", network: "No connection",
  missing: "A file is missing", damaged: "A file is damaged", "no-backend": "The model does not run here",
};

const at = (id) => document.getElementById(id);

function failed(error) {
  const causes = [];
  for (let cause = error; cause; cause = cause.cause) causes.push(`${cause.code ?? cause.name}: ${cause.stack ?? cause.message}`);
  at("status").replaceChildren(el("section", { class: "card error", role: "alert" },
    el("h2", {}, TITLES[error?.code] ?? "Something went wrong"), el("p", {}, error?.message ?? String(error)),
    el("button", { onclick: () => location.reload() }, "Try again"),
    el("details", {}, el("summary", {}, "Details"), el("pre", {}, [...causes, navigator.userAgent, location.href].join("\n\n")))));
  at("status").hidden = false;
}

addEventListener("error", (event) => failed(event.error ?? event));
addEventListener("unhandledrejection", (event) => failed(event.reason));

const PHASES = { start: "Starting the engine", "self-test": "Checking its answers" };

async function start() {
  const { load } = await import("./edgepress.mjs");
  at("status").querySelector(".late")?.remove();
  const model = await load(SITE, {
    onProgress: ({ phase, loaded, total, backend }) => {
      const downloads = phase === "download";
      at("phase").textContent = downloads ? `Loading: ${inBytes(loaded)} of ${inBytes(total)}` : `${PHASES[phase]} (${backend}) …`;
      if (downloads) at("bar").value = loaded / total;
      else at("bar").removeAttribute("value");
    },
  });
  warn(model.refused.filter(({ why }) => why !== "absent"), model.backend);
  for (const name of VIEWS) {
    const { fits, show } = await import(`./${name}.mjs`);
    if (!fits(model)) continue;
    await show(model, at("view"));
    break;
  }
  at("status").hidden = true;
  at("view").hidden = at("facts").hidden = false;
  const facts = await import("./facts.mjs");
  const offline = facts.show(model, at("facts"));
  await stay(offline);
}

function warn(refused, taken) {
  at("warnings").replaceChildren(...refused.map(({ backend, why, message }) => {
    const said = why === "wrong" ? "computes wrongly in this browser and was refused" : "did not start";
    return el("p", { class: "warning" }, `${backend} ${said}: ${message}. The model runs on ${taken} instead.`);
  }));
}

/** Keep what is shown, then look for something newer; `offline` tells the outcome. */
async function stay(offline) {
  const { keepOffline, update } = await import("./edgepress.mjs");
  try {
    const kept = (await keepOffline(SITE)) && navigator.serviceWorker;
    offline(kept ? "ready: this page opens without a network" : "not kept: that takes HTTPS and room on this device");
  } catch (error) {
    return offline(`not kept: ${error.message}`);
  }
  try {
    if (!(await update(SITE))) return;
    at("news").replaceChildren("A new version is ready. ", el("button", { onclick: () => location.reload() }, "Reload"));
    at("news").hidden = false;
  } catch (error) {
    if (error.code !== "network") offline(`ready; a new version is there, and was not taken: ${error.message}`);
  }
}

// Not awaited: a browser that refuses the worker runs the model all the same, from the network.
navigator.serviceWorker?.register("service-worker.js").catch((error) => console.info(`no offline use: ${error.message}`));
start().catch(failed);
