"""What the thin runtime adds: to a call of ONNX Runtime, to the start of a process, to the disk.

python benchmarks/overhead.py
"""

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from _common import Figure, Watch, in_turn, quartiles, show
from onnx import TensorProto, helper
from packaging.requirements import Requirement

from edgepress.runtime import load

CALL_US, SECONDS, IMPORT_SECONDS, MEGABYTES = 10.0, 0.3, 0.15, 200
CALLS = 100  # a block: long enough for the clock, short enough to fall between two interrupts

BARE, NUMPY, RUNTIME = "pass", "import numpy", "import edgepress.runtime"
HELP = "import sys; sys.argv[1:] = ['--help']; from edgepress.compress.cli import main; main()"


def main() -> None:
    """Time calls, time starts, weigh the install, print."""
    parser = argparse.ArgumentParser(description="What edgepress.runtime adds to ONNX Runtime's own figures.")
    parser.add_argument("--rounds", type=int, default=1000, help="rounds of calls (1000)")
    parser.add_argument("--starts", type=int, default=15, help="processes of each kind (15)")
    options, watch = parser.parse_args(), Watch()
    figures = [*calls(options.rounds), *starts(options.starts), installed()]
    show("edgepress.runtime beside ONNX Runtime", figures, [str(watch)])


def calls(rounds: int) -> list[Figure]:
    """For a model of 1 input and one of 4."""
    with tempfile.TemporaryDirectory() as folder:
        return [beyond(add_model(Path(folder) / f"{count}.onnx", count), count, rounds) for count in (1, 4)]


def beyond(path: Path, count: int, rounds: int) -> Figure:
    """A call through the runtime, less the same call of `InferenceSession.run`."""
    feeds = {f"x{i}": np.ones((1, 8), np.float32) for i in range(count)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    plain, model = onnxruntime.InferenceSession(path, options), load(path, threads=1)
    ours, theirs = in_turn([lambda: model(**feeds), lambda: plain.run(None, feeds)], rounds=rounds, block=CALLS)
    more = 1e6 * (ours - theirs)
    how = f"one node, {rounds} rounds of {CALLS} in turn; session.run(None, feeds): {quartiles(1e6 * theirs, 'µs')}"
    name = f"a call beyond session.run, {count} input{'s' if count > 1 else ''}"
    return Figure(name, quartiles(more, "µs"), f"<= {CALL_US:g} µs", bool(np.median(more) <= CALL_US), how)


def add_model(path: Path, inputs: int) -> Path:
    """An ONNX file with one node, `y = Σ x_i`, x_i and y float32 [batch, 8]."""
    names = [f"x{i}" for i in range(inputs)]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in (*names, "y")]
    graph = helper.make_graph([helper.make_node("Sum", names, ["y"])], "add", ports[:-1], ports[-1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def starts(count: int) -> list[Figure]:
    """Fresh processes, in turn: the command line's help, and the import of the runtime beyond that of NumPy."""
    taken: dict[str, list[float]] = {code: [] for code in (BARE, NUMPY, RUNTIME, HELP)}
    for code in taken:
        seconds(code)  # from here on the files are in the system's cache
    for _ in range(count):
        for code, kept in taken.items():
            kept.append(seconds(code))
    numpy, runtime, help_ = (np.array(taken[code]) for code in (NUMPY, RUNTIME, HELP))
    bare = quartiles(taken[BARE], "s", 2)
    how = f"{count} fresh processes of each, in turn"
    return [
        Figure("edgepress --help", quartiles(help_, "s", 2), f"<= {SECONDS} s", bool(np.median(help_) <= SECONDS),
               f"{how}; python itself: {bare}"),
        Figure("import edgepress.runtime beyond import numpy", quartiles(runtime - numpy, "s", 3),
               f"<= {IMPORT_SECONDS} s", bool(np.median(runtime - numpy) <= IMPORT_SECONDS),
               f"{how}; import numpy: {quartiles(numpy, 's', 2)}"),
    ]  # fmt: skip


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def installed() -> Figure:
    """What `pip install edgepress` puts on the disk, by the files that each package says are its own."""
    todo, sizes = ["edgepress", "pip"], {}
    while todo:
        name = todo.pop()
        if name in sizes:
            continue
        package = importlib.metadata.distribution(name)
        files = [Path(str(package.locate_file(file))) for file in package.files or ()]
        sizes[name] = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
        wanted = [Requirement(text) for text in package.requires or ()]
        todo += [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    parts = ", ".join(f"{name} {sizes[name]:.0f}" for name in largest)
    total = sum(sizes.values())
    return Figure("base install", f"{total:.0f} MB", f"<= {MEGABYTES} MB", total <= MEGABYTES,
                  f"the files of {len(sizes)} packages ({parts}), pip with them")  # fmt: skip


if __name__ == "__main__":
    main()
