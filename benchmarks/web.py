"""The web build: what a first visit brings over the wire, and what a call takes, beside what others do with the file.

    python benchmarks/web.py

All-MiniLM-L6-v2 in int8 at 15 tokens: through our module (its worker, checks and messages included), by plain
onnxruntime-web, by transformers.js with its own onnxruntime-web, and natively: the same file, in turn. Wants Chromium,
the extra `browser` and npm, which brings transformers.js (300 MB, into out/peers/transformers.js).
"""

import argparse
import asyncio
import gzip
import os
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _common import ROOT, Figure, Watch, in_turn, minilm, quartiles, ratio, show, texts, times
from _peers import PEERS
from playwright.async_api import Page, async_playwright

from edgepress.compress.quantize import DynamicInt8
from edgepress.compress.source import read_source
from edgepress.devices import find_device
from edgepress.devices.browser import find_chromium
from edgepress.devices.serve import LOOPBACK, server
from edgepress.export import npm
from edgepress.export.formats import export
from edgepress.runtime.session import load

TOKENS, TIMES, MEGABYTES = 15, 1.1, 4.5
PAUSE_S = 0.1  # threads spin after a call
PEER = "@huggingface/transformers@4.3.1"

# The page's part: every way to open the file is a call without arguments.
SCRIPT = """
async ({ threads, inputs, peer, name }) => {
  const map = (values, how) => Object.fromEntries(Object.entries(values).map(([key, value]) => [key, how(value)]));
  const ids = map(inputs, (numbers) => BigInt64Array.from(numbers, BigInt));
  const shape = [1, Object.values(inputs)[0].length], calls = {};

  const { load } = await import("/site/edgepress.mjs");
  const model = await load("/site/", { backends: [threads > 1 ? "wasm-threads" : "wasm"], threads });
  const given = map(ids, (data) => ({ data, shape }));
  calls.ours = () => model.run(given);

  const ort = await import("/ort/dist/ort.wasm.min.mjs");
  Object.assign(ort.env.wasm, { wasmPaths: "/ort/dist/", numThreads: threads });
  const session = await ort.InferenceSession.create("/site/model.onnx");
  const feeds = map(ids, (data) => new ort.Tensor("int64", data, shape));
  calls.plain = async () => {
    for (const tensor of Object.values(await session.run(feeds))) {
      await tensor.getData();
      tensor.dispose();
    }
  };

  let trouble = "";
  if (peer) try {
    const { AutoModel, Tensor, env } = await import("/peer/@huggingface/transformers/dist/transformers.min.js");
    Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: "/models/" });
    Object.assign(env, { useBrowserCache: false, useWasmCache: false });
    Object.assign(env.backends.onnx.wasm, { wasmPaths: "/peer/onnxruntime-web/dist/", numThreads: threads });
    const theirs = await AutoModel.from_pretrained(name, { dtype: "q8", device: "wasm" });
    const tensors = map(ids, (data) => new Tensor("int64", data, shape));
    calls.theirs = async () => Object.values(await theirs(tensors)).map((tensor) => tensor.data);
  } catch (error) { trouble = String(error?.message ?? error); }

  calls.inside = async () => (await model.time(given, 1))[0];
  globalThis.block = async (which, count) => {
    for (const end = performance.now() + 20; performance.now() < end;) await calls[which]();
    if (which === "inside") return (await model.time(given, count)).reduce((sum, ms) => sum + ms / count, 0);
    const begun = performance.now();
    for (let i = 0; i < count; i++) await calls[which]();
    return (performance.now() - begun) / count;
  };
  return { names: Object.keys(calls), trouble, ran: [model.backend, model.threads], difference: model.difference };
}
"""
NAMES = {
    "ours": "edgepress.mjs",
    "inside": "… the engine's call in its worker alone",
    "plain": "plain onnxruntime-web",
    "theirs": "transformers.js",
}


def main() -> None:
    """Make both sites, visit one, time the other, print."""
    parser = argparse.ArgumentParser(description="A first visit's bytes; MiniLM int8 in the browser.")
    parser.add_argument("--rounds", type=int, default=40, help="rounds in turn (40)")
    parser.add_argument("--block", type=int, default=5, help="calls a block (5)")
    options, watch = parser.parse_args(), Watch()
    peer, trouble = peers()
    with tempfile.TemporaryDirectory() as folder:
        digits, encoder = made(Path(folder))
        figures = visits(digits)
        timed, said = asyncio.run(calls(encoder, peer, Path(folder), options.rounds, options.block))
        notes = [str(watch), *([f"transformers.js: {text}"] if (text := trouble or said) else [])]
    show("digits, the page: bytes over the wire (gzip)", figures)
    show(f"all-MiniLM-L6-v2 in int8, {TOKENS} tokens, in the browser", timed, notes)


def made(folder: Path) -> tuple[Path, Path]:
    """The sites of the sample's network (its weights are not trained: they have as many bytes) and of the encoder."""
    sample = ROOT / "samples" / "digits" / "task.py"
    task = folder / "task.py"
    task.write_text(UNTRAINED.format(sample=str(sample)), encoding="utf-8")
    digits = export(read_source(str(task)).model, "web", folder / "digits").path
    lines = folder / "texts.txt"
    lines.write_text("\n".join(line for kind in texts(16).values() for line in kind), encoding="utf-8")
    encoder = read_source(str(minilm()), lines)
    small = DynamicInt8(reduce_range=find_device("browser").reduce_range)(
        replace(encoder.model, name="minilm"), encoder.data
    )
    return digits, export(small, "web", folder / "minilm").path


UNTRAINED = """\
import importlib.util

spec = importlib.util.spec_from_file_location("digits_sample", {sample!r})
sample = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sample)


def task():
    return sample.judged(sample.ResNet8().eval(), sample.digits())
"""


def visits(site: Path) -> list[Figure]:
    """Bytes from the server to the browser, headers included, until the model has run; and again on a second visit."""
    with serving({"": site}) as port, counting(port) as (address, count):
        first, second = asyncio.run(visited(address, count))
    static = {name: squeezed(site / name) for name in ("ort-wasm-simd-threaded.wasm", "model.onnx")}
    rest = sum(squeezed(path) for path in site.iterdir() if path.suffix in (".mjs", ".js", ".html", ".css"))
    parts = ", ".join(f"{name} {bytes_ / 1e6:.2f} MB" for name, bytes_ in static.items())
    return [
        Figure("first visit", f"{first / 1e6:.2f} MB", f"<= {MEGABYTES} MB", first <= 1e6 * MEGABYTES,
               f"counted between server and browser, with headers; {parts}, scripts and page {rest / 1e3:.0f} kB"),
        Figure("second visit", f"{second / 1e3:.1f} kB", how="the same profile, the page loaded again"),
    ]  # fmt: skip


async def visited(address: str, count: list[int]) -> tuple[int, int]:
    seen = []
    async with async_playwright() as playwright:
        with tempfile.TemporaryDirectory() as profile:
            context = await playwright.chromium.launch_persistent_context(
                profile, executable_path=find_chromium(), args=flags()
            )
            for _ in range(2):
                before, page = count[0], await context.new_page()
                await page.goto(address, wait_until="networkidle")
                await page.evaluate(
                    """async (base) => {
                      const { load, keepOffline } = await import(`${base}edgepress.mjs`);
                      const model = await load(base), [sample] = await model.golden();
                      await model.run(sample.inputs);
                      await keepOffline(base);
                    }""", address
                )  # fmt: skip
                await page.wait_for_load_state("networkidle")
                seen.append(count[0] - before)
                await page.close()
            await context.close()
    return seen[0], seen[1]


async def calls(site: Path, peer: Path | None, folder: Path, rounds: int, block: int) -> tuple[list[Figure], str]:
    """Milliseconds a call of each way to run the file, by one thread and by all; natively in the same rounds."""
    figures, trouble = [], ""
    native = load(site, threads=1)
    ports = [port.name for port in native.inputs]
    inputs = {
        name: list(range(1000, 1000 + TOKENS)) if name == "input_ids" else [int("mask" in name)] * TOKENS
        for name in ports
    }
    arrays = {name: np.array([numbers], np.int64) for name, numbers in inputs.items()}
    folders = {"": site, "site": site, "ort": npm.from_cache(npm.ORT), "models": models(site, folder)}
    if peer is not None:
        folders["peer"] = peer
    with serving(folders) as port:
        async with async_playwright() as playwright:
            for threads in (1, os.cpu_count() or 1)[: 1 + (os.cpu_count() != 1)]:
                browser = await playwright.chromium.launch(executable_path=find_chromium(), args=flags())
                page = await browser.new_page(bypass_csp=True)  # transformers.js wants more than our page allows
                await page.goto(f"http://{LOOPBACK}:{port}/artifact.json")
                given = {"threads": threads, "inputs": inputs, "peer": peer is not None, "name": "minilm"}
                told = await page.evaluate(SCRIPT, given)
                trouble = told["trouble"] or trouble
                taken = await blocks(page, told["names"], rounds, block)
                figures += compared(taken, threads, told, rounds, block)
                await browser.close()
    (here,) = in_turn([lambda: native(**arrays)], rounds=rounds, block=block)
    figures.append(
        Figure("natively, 1 thread", quartiles(1e3 * here, "ms", 2), how="edgepress.runtime, after the browser")
    )
    return figures, trouble


async def blocks(page: Page, names: Sequence[str], rounds: int, block: int) -> dict[str, np.ndarray]:
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            time.sleep(PAUSE_S)
            taken[name].append(await page.evaluate("([name, calls]) => block(name, calls)", [name, block]))
    return {name: np.array(values) for name, values in taken.items()}


def compared(
    taken: Mapping[str, np.ndarray], threads: int, told: Mapping[str, Any], rounds: int, block: int
) -> Iterator[Figure]:
    words = f"{threads} thread{'s' if threads > 1 else ''}"
    how = f"{rounds} rounds of {block} calls in turn; backend {told['ran'][0]}, self-test {told['difference']:.1e}"
    for name, values in taken.items():
        yield Figure(f"{NAMES[name]}, {words}", quartiles(values, "ms", 2), how=how if name == "ours" else "")
    over = ratio(taken["ours"], taken["plain"])
    yield Figure(f"ours over plain, {words}", times(over), f"<= {TIMES}x", over.median <= TIMES)
    inside = ratio(taken["ours"], taken["inside"])
    yield Figure(f"ours over the engine's call in its worker, {words}", times(inside))
    if "theirs" in taken:
        yield Figure(f"transformers.js over ours, {words}", times(ratio(taken["theirs"], taken["ours"])))


def models(site: Path, folder: Path) -> Path:
    """The file as transformers.js wants it: models/minilm/onnx/model_quantized.onnx, with config.json beside."""
    place = folder / "models" / "minilm"
    (place / "onnx").mkdir(parents=True)
    shutil.copy(site / "model.onnx", place / "onnx" / "model_quantized.onnx")
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(minilm() / name, place / name)
    return folder / "models"


def peers() -> tuple[Path | None, str]:
    """The node_modules with transformers.js, installed where it is missing; else why it is not there."""
    folder = PEERS / "transformers.js"
    if not (folder / "node_modules" / "@huggingface").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", PEER]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None, "npm is missing"
        if done.returncode:
            return None, done.stderr.strip().splitlines()[-1]
    return folder / "node_modules", ""


def flags() -> list[str]:
    return ["--no-sandbox"] if os.geteuid() == 0 else []


def squeezed(path: Path) -> int:
    return len(gzip.compress(path.read_bytes(), 6))


@contextmanager
def serving(folders: Mapping[str, Path]) -> Iterator[int]:
    with server(folders) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_address[1]
        running.shutdown()


@contextmanager
def counting(port: int) -> Iterator[tuple[str, list[int]]]:
    """An address that leads to the server, and the bytes that have come from there so far."""
    count = [0]

    class Between(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((LOOPBACK, port)) as there:
                asked = threading.Thread(target=passed, args=(self.request, there, None), daemon=True)
                asked.start()
                passed(there, self.request, count)

    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer((LOOPBACK, 0), Between) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://{LOOPBACK}:{running.server_address[1]}/", count
        running.shutdown()


def passed(source: socket.socket, target: socket.socket, count: list[int] | None) -> None:
    """Hand on what comes until one side closes."""
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
            if count is not None:
                count[0] += len(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


if __name__ == "__main__":
    main()
