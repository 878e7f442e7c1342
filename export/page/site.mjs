// A site: the manifest and its files, each compared with its sha256, kept whole for offline use.

import { EdgepressError } from "./errors.mjs";

const MANIFEST = "artifact.json";
const SCHEMA = 1;
const POINTERS = "edgepress"; // the cache that says which version of each site is whole
const TYPES = {
  html: "text/html; charset=utf-8", css: "text/css; charset=utf-8", js: "text/javascript", mjs: "text/javascript",
  json: "application/json", webmanifest: "application/manifest+json", svg: "image/svg+xml", png: "image/png",
  wasm: "application/wasm",
};

/** The site at a folder's address: the newest version where the network answers, else the one that was kept. */
export async function openSite(url, { signal, fresh = false } = {}) {
  const base = folder(url);
  let bytes;
  try {
    bytes = await fetched(new URL(MANIFEST, base), { signal, cache: fresh ? "no-store" : "no-cache" });
  } catch (error) {
    const kept = fresh ? undefined : await (await keptCache(base))?.match(new URL(MANIFEST, base));
    if (!kept) throw error;
    bytes = new Uint8Array(await kept.arrayBuffer());
  }
  const manifest = parsed(bytes, base);
  return { base, manifest, bytes, version: await sha256(bytes), downloaded: 0 };
}

/** The address of a site's folder, however it was written: with or without a last `/`, or with its `index.html`. */
function folder(url) {
  const path = new URL(url, document.baseURI).href.replace(/[?#].*$/, "").replace(/\/(index\.html|artifact\.json)$/, "/");
  return new URL(path.endsWith("/") ? path : `${path}/`);
}

function parsed(bytes, base) {
  let manifest;
  try {
    manifest = JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new EdgepressError("damaged", `${new URL(MANIFEST, base)} is no JSON; copy the whole folder to the host again`, { cause: error });
  }
  if (manifest.schema !== SCHEMA || manifest.format !== "web") {
    throw new EdgepressError("damaged", `${new URL(MANIFEST, base)} is no web build of schema ${SCHEMA}; export the model with --to web`);
  }
  return manifest;
}

/** The manifest's entries of a file: itself, or the parts that it was split into (`model.onnx.000`, …). */
export function partsOf(site, name) {
  const rest = (file) => file.name.slice(name.length);
  return site.manifest.files.filter((file) => file.name.startsWith(name) && /^(\.\d{3})?$/.test(rest(file)));
}

/** The bytes of a file, whole and verified. `tell(entry, loaded)` follows the download. */
export async function bytesOf(site, name, { tell = () => {}, signal, keep = true } = {}) {
  const parts = partsOf(site, name);
  if (!parts.length) throw new EdgepressError("missing", `the site has no ${name}; export the model again`);
  if (parts.length === 1) return verified(site, parts[0], { tell, signal, keep });
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.bytes, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(await verified(site, part, { tell, signal, keep }), at);
    at += part.bytes;
  }
  return whole;
}

async function verified(site, file, { tell, signal, keep }) {
  const url = new URL(file.name, site.base);
  const cache = keep ? await versionCache(site) : undefined;
  const kept = await cache?.match(url);
  if (kept) {
    const bytes = new Uint8Array(await kept.arrayBuffer());
    if (await isRight(bytes, file)) {
      tell(file, file.bytes);
      return bytes;
    }
  }
  for (const mode of ["default", "reload"]) { // an old file in the browser's own cache is fetched once more
    const bytes = await fetched(url, { signal, cache: mode }, (loaded) => tell(file, loaded));
    site.downloaded += bytes.length;
    if (await isRight(bytes, file)) {
      await store(cache, url, bytes);
      return bytes;
    }
  }
  throw new EdgepressError("damaged", `${file.name} is not the file that was exported (sha256); copy the whole folder to the host again`);
}

const isRight = async (bytes, file) => bytes.length === file.bytes && (await sha256(bytes)) === file.sha256;

async function fetched(url, init, tell = () => {}) {
  let response;
  try {
    response = await fetch(url, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new EdgepressError("network", `${url} cannot be reached; check the connection and load the page again`, { cause: error });
  }
  if (!response.ok) {
    throw new EdgepressError("missing", `${url} answered ${response.status}; copy the whole folder to the host again`);
  }
  const chunks = [];
  let loaded = 0;
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      tell((loaded += value.length));
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new EdgepressError("network", `${url} broke off after ${loaded} bytes; check the connection and load the page again`, { cause: error });
  }
  const bytes = new Uint8Array(loaded);
  chunks.reduce((at, chunk) => (bytes.set(chunk, at), at + chunk.length), 0);
  return bytes;
}

/** Have all files kept, verified, and then this version opened the next time: whole or not at all. */
export async function complete(site) {
  if (!("caches" in globalThis)) return false;
  const cache = await versionCache(site);
  for (const file of site.manifest.files) {
    const url = new URL(file.name, site.base);
    if (!(await cache.match(url))) await verified(site, file, { tell: () => {}, keep: true });
    if (!(await cache.match(url))) return false; // no room
  }
  await store(cache, new URL(MANIFEST, site.base), site.bytes);
  const index = await cache.match(new URL("index.html", site.base));
  if (index) await cache.put(site.base, index);
  const pointers = await caches.open(POINTERS);
  await pointers.put(site.base, new Response(cacheName(site)));
  for (const name of await caches.keys()) {
    if (name.startsWith(`${POINTERS} ${site.base} `) && name !== cacheName(site)) await caches.delete(name);
  }
  return true;
}

const cacheName = (site) => `${POINTERS} ${site.base} ${site.version}`;

async function versionCache(site) {
  return "caches" in globalThis ? caches.open(cacheName(site)) : undefined;
}

/** The version of a site that is kept whole, or undefined. */
export async function keptVersion({ base }) {
  return (await pointer(base))?.split(" ").at(-1);
}

/** The name of the cache of the version that is kept. */
async function pointer(base) {
  if (!("caches" in globalThis)) return undefined;
  return (await (await caches.open(POINTERS)).match(base))?.text();
}

async function keptCache(base) {
  const name = await pointer(base);
  return name && caches.open(name);
}

async function store(cache, url, bytes) {
  const type = TYPES[url.pathname.split(".").pop()] ?? "application/octet-stream";
  try {
    await cache?.put(url, new Response(bytes, { headers: { "content-type": type, "content-length": bytes.length } }));
  } catch (error) {
    if (error.name !== "QuotaExceededError") throw error; // without room it runs all the same, from the network
  }
}

/** SHA-256 as hex; browsers have it only for pages from HTTPS and loopback, elsewhere noble-hashes does it. */
export async function sha256(bytes) {
  const digest = globalThis.crypto?.subtle
    ? new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))
    : (await import("./sha2.js")).sha256(bytes);
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
