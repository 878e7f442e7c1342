// Answers from the version of the site that is kept whole, and gives every answer the headers that threads need.

const POINTERS = "edgepress";
const ISOLATION = {
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
  "cross-origin-resource-policy": "same-origin",
};

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));

addEventListener("fetch", (event) => {
  const { request } = event;
  const ours = request.url.startsWith(registration.scope) && request.method === "GET";
  if (ours && (request.cache !== "only-if-cached" || request.mode === "same-origin")) event.respondWith(answer(request));
});

async function answer(request) {
  const asksHost = request.cache === "no-store" || request.cache === "reload"; // an update, or a file that was wrong
  const response = (asksHost && request.mode !== "navigate" ? undefined : await kept(request)) ?? (await fetch(request));
  if (response.type === "opaqueredirect" || response.status === 0) return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

async function kept(request) {
  const pointer = await (await caches.open(POINTERS)).match(registration.scope);
  return pointer && (await caches.open(await pointer.text())).match(request, { ignoreSearch: true });
}
