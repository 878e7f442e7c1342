"""Browser: headless Chromium with the sites of web builds in it; their models are called from here like any other.

    with open_in_browser(artifact) as model:
        model(image=pixels)["logits"]

Playwright drives it, from an event loop in a thread of its own: so a model may be called from any thread, and Ctrl-C
meets the caller, not the protocol. Each browser has a new profile, and a server of its own on the loopback.
"""

import asyncio
import base64
import os
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..runtime.artifact import Artifact, Port
from ..runtime.errors import DeviceError, EngineError, MissingExtra, PortError, UnsupportedError
from ..runtime.placement import Placed
from ..runtime.session import LoadedModel, opened
from .serve import LOOPBACK, server

if TYPE_CHECKING:
    from playwright.async_api import Browser as Chromium
    from playwright.async_api import Page, Playwright

T = TypeVar("T")

BACKENDS = ("wasm-threads", "wasm")
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
VARIABLE = "EDGEPRESS_CHROMIUM"
START_S = 60.0

# What the page answers with. Arrays travel as the base64 of their bytes, which are little-endian on both sides.
_SCRIPT = """
() => {
  const KINDS = {
    float32: Float32Array, float64: Float64Array, float16: Uint16Array, int8: Int8Array, int16: Int16Array,
    int32: Int32Array, int64: BigInt64Array, uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array,
    uint64: BigUint64Array, bool: Uint8Array,
  };
  const models = [];
  const tensors = (given) => Object.fromEntries(Object.entries(given).map(([name, { dtype, shape, bytes }]) => {
    const raw = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
    return [name, { dtype, shape, data: new KINDS[dtype](raw.buffer) }];
  }));
  const encoded = ({ dtype, shape, data }) => {
    const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const pieces = [];
    for (let at = 0; at < raw.length; at += 32768) pieces.push(String.fromCharCode(...raw.subarray(at, at + 32768)));
    return { dtype, shape, bytes: btoa(pieces.join("")) };
  };
  const commands = {
    async open({ base, backends, threads }) {
      const { load } = await import(`${base}edgepress.mjs`);
      let ready = 0;
      const onProgress = ({ phase }) => { if (phase === "self-test") ready = performance.now(); };
      const settings = threads ? { threads } : {};
      const model = await load(base, { backends, keep: false, onProgress, ...settings });
      const { backend, threads: count, refused, times, difference } = model;
      return { index: models.push(model) - 1, backend, threads: count, refused, times, ready, difference,
               isolated: crossOriginIsolated };
    },
    async run({ index, inputs }) {
      const outputs = await models[index].run(tensors(inputs));
      return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, encoded(tensor)]));
    },
    async block({ index, inputs, settle, least, enough, most, limit }) {
      const given = tensors(inputs), begun = performance.now();
      let call;
      do [call] = await models[index].time(given, 1); while (performance.now() - begun < settle);
      const fitting = (ms) => Math.floor(ms / Math.max(call, 1e-3)) + 1;
      return models[index].time(given, Math.min(Math.max(least, Math.min(fitting(enough), most)), fitting(limit)));
    },
  };
  globalThis.edgepress = async (command, given) => {
    try {
      return { value: await commands[command](given) };
    } catch (error) {
      return { message: String(error?.message ?? error).split("\\n")[0], code: error?.code ?? "" };
    }
  };
}
"""


@dataclass(frozen=True)
class Opened:
    """What the page tells of a model: the backend that passed its golden samples, and those that were passed over.

    `times` are milliseconds (download, start, firstRun), `ready` those from the navigation to the first call.
    """

    index: int
    backend: str
    threads: int
    refused: Sequence[Mapping[str, str]]
    times: Mapping[str, float]
    ready: float
    difference: float
    isolated: bool


@dataclass(frozen=True)
class BrowserEngine:
    """An engine as any other, which computes in a page."""

    browser: "Browser"
    opened: Opened
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    needs: Mapping[str, Any]

    @property
    def providers(self) -> tuple[str, ...]:
        """The backend: `wasm-threads` or `wasm`."""
        return (self.opened.backend,)

    def placed(self) -> tuple[Placed, ...]:
        """Raises EngineError: onnxruntime-web does not tell where nodes run."""
        raise EngineError("a browser does not tell where nodes run; ask for the ONNX file: edgepress explain")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model once."""
        found = self.browser.ask("run", index=self.opened.index, inputs=encoded(inputs))
        return {name: decoded(tensor) for name, tensor in found.items()}

    def block(
        self, inputs: Mapping[str, np.ndarray], *, settle: float, least: int, enough: float, most: int, limit: float
    ) -> tuple[float, ...]:
        """Latencies in ms, taken in the page's worker, of `least` calls or more: until `enough` ms or `most` calls.

        Calls of the first `settle` ms are not counted; there are fewer where `limit` ms allow no more.
        """
        given = encoded(inputs)
        return tuple(
            self.browser.ask(
                "block", index=self.opened.index, inputs=given, settle=settle, least=least, enough=enough, most=most,
                limit=limit,
            )
        )  # fmt: skip


class Browser:
    """A running browser with one page; see `open_browser`."""

    def __init__(self, page: "Page", version: str, base: str, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.version = version
        self._page, self._base, self._wait = page, base, wait

    def open(
        self, artifact: Artifact, name: str, *, backends: Sequence[str] = BACKENDS, threads: int | None = None
    ) -> LoadedModel:
        """Open the site that is served under `name`. Its page compares the hashes and replays the golden samples.

        Raises EngineError where it does not open or no backend computes rightly, DeviceError where the browser fails.
        """
        base = f"{self._base}{name}/"
        found = self.ask("open", base=base, backends=list(backends), threads=threads, where=f"{artifact.path}: ")
        engine = BrowserEngine(self, Opened(**found), artifact.inputs, artifact.outputs, artifact.needs)
        return opened(artifact, engine, engine.providers)

    def ask(self, command: str, *, where: str = "", **given: Any) -> Any:
        """What the page answers to a command of `_SCRIPT`; raises PortError, EngineError and DeviceError."""
        from playwright.async_api import Error

        try:
            answer = self._wait(
                self._page.evaluate("([command, given]) => edgepress(command, given)", [command, given])
            )
        except Error as error:
            raise DeviceError(f"{where}the browser stopped ({_first_line(error)}); is the memory enough?") from error
        if "value" in answer:
            return answer["value"]
        kind = PortError if answer["code"] == "wrong-input" else EngineError
        raise kind(f"{where}{answer['message']}")


@contextmanager
def open_in_browser(
    artifact: Artifact, *, backends: Sequence[str] = BACKENDS, threads: int | None = None
) -> Iterator[LoadedModel]:
    """The model of a web build in a browser of its own, which ends with the block: nothing of it is left behind.

    A call checks its inputs and gives NumPy arrays, as a call of any open model does. Raises UnsupportedError for
    another format, MissingExtra without playwright, DeviceError without Chromium, and what `Browser.open` raises.

    >>> with open_in_browser(read_artifact("site")) as model:
    ...     model.engine.providers
    ('wasm-threads',)
    """
    with open_browser({"0": artifact}) as browser:
        yield browser.open(artifact, "0", backends=backends, threads=threads)


@contextmanager
def open_browser(sites: Mapping[str, Artifact]) -> Iterator[Browser]:
    """A browser whose page can open these web builds, by the names that they are served under.

    Raises UnsupportedError for another format, MissingExtra without playwright, DeviceError without Chromium.
    """
    for artifact in sites.values():
        if artifact.format != "web":
            raise UnsupportedError(f"{artifact.path} is in the format {artifact.format}; a browser opens web builds")
    program = find_chromium()
    with _serving({name: artifact.path for name, artifact in sites.items()}) as base, _loop() as wait:
        running: list[Any] = []
        try:
            page = wait(_start(program, f"{base}{next(iter(sites))}/artifact.json", running))
            yield Browser(page, running[1].version, base, wait)
        finally:
            wait(_stop(running))


def find_chromium() -> str | None:
    """The path of a Chromium: the one that EDGEPRESS_CHROMIUM names, the system's; None where playwright has its own.

    Raises MissingExtra without playwright, DeviceError where the named one is not there.
    """
    try:
        import playwright  # noqa: F401 - is it there?
    except ImportError as error:
        raise MissingExtra("playwright", "browser") from error
    if named := os.environ.get(VARIABLE):
        if found := shutil.which(named):
            return found
        raise DeviceError(f"{VARIABLE} names {named}, which is no program; name one, or unset it")
    return next((path for name in CHROMIUMS if (path := shutil.which(name))), None)


def encoded(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays as the page reads them."""
    found = {}
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        found[name] = {
            "dtype": array.dtype.name, "shape": list(array.shape), "bytes": base64.b64encode(raw).decode("ascii"),
        }  # fmt: skip
    return found


def decoded(tensor: Mapping[str, Any]) -> np.ndarray:
    """The array of what the page sent."""
    raw = bytearray(base64.b64decode(tensor["bytes"]))
    dtype = np.dtype(tensor["dtype"])
    return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(tensor["shape"])


async def _start(program: str | None, address: str, running: list[Any]) -> "Page":
    """Start Chromium and go to an address of the site that shows nothing; `running` gets what is to be ended."""
    from playwright.async_api import Error, async_playwright

    playwright: Playwright = await async_playwright().start()
    running.append(playwright)
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox does not start as root
    try:
        chromium: Chromium = await playwright.chromium.launch(
            executable_path=program, args=flags, timeout=1000 * START_S, handle_sigint=False
        )
        running.append(chromium)
        page = await chromium.new_page()
        await page.goto(address)
        await page.evaluate(_SCRIPT)
    except Error as error:
        raise DeviceError(_no_browser(program, error)) from error
    return page


def _no_browser(program: str | None, error: Exception) -> str:
    if program is None and "Executable doesn't exist" in str(error):
        return (
            f"there is no Chromium here; install one (apt-get install chromium, or: playwright install chromium), "
            f"or name it in {VARIABLE}"
        )
    return f"{program or 'Chromium'} does not start ({_first_line(error)}); name another browser in {VARIABLE}"


async def _stop(running: Sequence[Any]) -> None:
    from playwright.async_api import Error

    for chromium in running[1:]:
        with suppress(Error):  # it has ended by itself
            await chromium.close()
    for playwright in running[:1]:
        await playwright.stop()


@contextmanager
def _serving(folders: Mapping[str, Path]) -> Iterator[str]:
    with server(folders) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{running.server_address[1]}/"
        finally:
            running.shutdown()
            thread.join()


@contextmanager
def _loop() -> Iterator[Callable[[Coroutine[Any, Any, T]], T]]:
    """An event loop in a thread; what it yields runs a coroutine there and waits for it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
