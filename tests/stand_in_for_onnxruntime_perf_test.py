"""Not the tool, but a stand-in for it: the Python library of ONNX Runtime behind its options and its lines.

It takes the options of onnxruntime_perf_test by the `getopt` string that its source has, opens the file with what they
ask for, and really runs it. See test_ort_bench for the source of what it prints.
"""

import getopt
import resource
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort


def main() -> int:
    options, paths = getopt.getopt(sys.argv[1:], "k:b:m:e:r:t:p:x:y:c:d:o:u:i:f:F:S:T:AMPIDZvhsqz")
    known = dict(options)
    if len(paths) != 2 or known.get("-m") != "times" or "-I" not in known:
        print("See 'onnxruntime_perf_test --help'.", end="", file=sys.stderr)
        return 255
    run(Path(paths[0]), Path(paths[1]), options)
    return 0


def run(model: Path, results: Path, options: list[tuple[str, str]]) -> None:
    settings, known = ort.SessionOptions(), dict(options)
    if "-x" in known:
        print(f"Setting intra_op_num_threads to {known['-x']}")
        settings.intra_op_num_threads = int(known["-x"])
    for name, size in (value.split(":") for option, value in options if option == "-f"):
        settings.add_free_dimension_override_by_name(name, int(size))
        print(f"Overriding dimension with name, {name}, to {size}")
    begun = time.perf_counter()
    session = ort.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
    created = time.perf_counter()
    shapes = {node.name: [a if isinstance(a, int) else 1 for a in node.shape] for node in session.get_inputs()}
    inputs = {name: np.random.default_rng(1).random(shape, np.float32) for name, shape in shapes.items()}
    session.run(None, inputs)
    first = time.perf_counter()
    taken: list[float] = []
    for _ in range(int(known["-r"])):
        start = time.perf_counter()
        session.run(None, inputs)
        taken.append(time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"Session creation time cost: {created - begun:.6g} s")
    print(f"First inference time cost: {int(1000 * (first - created))} ms")
    print(f"Total inference time cost: {sum(taken):.6g} s\nTotal inference requests: {len(taken)}")
    print(f"Average inference time cost: {1000 * sum(taken) / len(taken):.6g} ms")
    print(f"Avg CPU usage: 12 %\nPeak working set size: {memory} bytes")
    with results.open("a", encoding="utf-8") as stream:
        stream.writelines(f"{model.parent.name},{s:.6g},{memory},12,{i}\n" for i, s in enumerate(taken))


if __name__ == "__main__":
    sys.exit(main())
