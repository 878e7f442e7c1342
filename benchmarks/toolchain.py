"""From a Hugging Face folder to a judged artifact: seconds and memory, beside the usual tools, which judge nothing.

    python benchmarks/toolchain.py --peers FOLDER

Ours is `edgepress compress FOLDER --recipe encoder`. The peer is `optimum-cli export onnx` and then ONNX Runtime's
`quantize_dynamic`; it lives in an environment of its own in FOLDER, which is made when it is missing (1.5 GB).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _common import Figure, Watch, minilm, quartiles, ratio, show, texts, times
from _peers import ENVIRONMENT, PEERS, QUANTIZERS, environment

TIMES, GIGABYTE = 1.3, 1e9
LINES = 256  # every other one calibrates, the rest judges
SAMPLE_S = 0.2  # how often the memory of all processes is added up; more often would slow them down
QUANTIZE = (
    "import sys; from onnxruntime.quantization import quantize_dynamic, QuantType; "
    "quantize_dynamic(sys.argv[1], sys.argv[2], per_channel=True, weight_type=QuantType.QInt8)"
)


@dataclass(frozen=True)
class Cost:
    """Of a program and all that it starts: seconds, the largest process's peak memory, and that of all at a time.

    `processor` counts the seconds of all cores: it is what other programs on the machine change least.
    `largest` (bytes) is the kernel's own count; `together` adds up the proportional sizes (shared pages count once)
    five times a second, and is None where there is no /proc.
    """

    seconds: float
    processor: float
    largest: int
    together: int | None

    def __add__(self, after: "Cost") -> "Cost":
        pair = (self.together, after.together)
        together = None if None in pair else max(value for value in pair if value is not None)
        seconds, processor = self.seconds + after.seconds, self.processor + after.processor
        return Cost(seconds, processor, max(self.largest, after.largest), together)


def main() -> None:
    """Run both in turn, print."""
    parser = argparse.ArgumentParser(description="Seconds and memory of a whole compression, beside the usual tools.")
    parser.add_argument("--peers", type=Path, default=PEERS, help="where the peer lives (out/peers)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn (3)")
    options, watch = parser.parse_args(), Watch()
    python, trouble = environment("optimum", QUANTIZERS["optimum"].requirements, options.peers)
    ours: list[Cost] = []
    theirs: list[Cost] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            ours.append(edgepress(Path(folder)))
            if python is not None:
                theirs.append(optimum(python, Path(folder)))
    notes = [str(watch), *([] if python else [f"The peer could not be installed: {trouble}"])]
    show("all-MiniLM-L6-v2, from the folder to the file", figures(ours, theirs), notes)


def figures(ours: Sequence[Cost], theirs: Sequence[Cost]) -> list[Figure]:
    """A ratio where there is a peer, then what each took."""
    found = []
    if theirs:
        seconds = [np.array([cost.seconds for cost in costs]) for costs in (ours, theirs)]
        reached = ratio(*seconds)
        found.append(Figure("time, ours over the peer's", times(reached),
                            f"<= {TIMES}x", reached.median <= TIMES, f"{len(ours)} rounds in turn"))  # fmt: skip
        busy = [np.array([cost.processor for cost in costs]) for costs in (ours, theirs)]
        found.append(Figure("processor time, ours over the peer's", times(ratio(*busy))))
    found += rows("edgepress compress", ours, f"exports, times and judges; {LINES} texts", limited=True)
    if theirs:
        found += rows("optimum-cli + quantize_dynamic", theirs, "exports; judges nothing", limited=False)
    return found


def rows(name: str, costs: Sequence[Cost], how: str, *, limited: bool) -> list[Figure]:
    largest = max(cost.largest for cost in costs)
    known = [cost.together for cost in costs if cost.together is not None]
    peak = max([largest, *known])
    return [
        Figure(name, quartiles([cost.seconds for cost in costs], "s"), how=how),
        Figure(f"{name}, processor time", quartiles([cost.processor for cost in costs], "s")),
        Figure(f"{name}, peak memory", f"{peak / 1e6:.0f} MB", "< 1000 MB" if limited else "",
               peak < GIGABYTE if limited else None,
               f"{'all processes at a time; ' if known else ''}the largest alone: {largest / 1e6:.0f} MB"),
    ]  # fmt: skip


def edgepress(folder: Path) -> Cost:
    """The whole job as a user types it."""
    lines = folder / "texts.txt"
    lines.write_text("\n".join(line for kind in texts(LINES // 2).values() for line in kind), encoding="utf-8")
    command = [sys.executable, "-P", "-c", "from edgepress.compress.cli import main; main()", "compress"]
    settings = ["--recipe", "encoder", "--data", lines, "--out", folder / "ours", "--force"]
    return run([*command, minilm(), *settings])


def optimum(python: Path, folder: Path) -> Cost:
    """The peer's two steps, each a process."""
    out = folder / "theirs"
    export = run([python.with_name("optimum-cli"), "export", "onnx", "--model", minilm(), "--task",
                  "feature-extraction", out])  # fmt: skip
    return export + run([python, "-c", QUANTIZE, out / "model.onnx", out / "int8.onnx"])


def run(command: Sequence[str | Path]) -> Cost:
    """Run a program to its end and weigh it. Raises SystemExit with what it said where it fails."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        start, together = time.perf_counter(), 0
        process = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            together = max(together, resident(process.pid))
            time.sleep(SAMPLE_S)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{said.read()[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, together or None)


def resident(pid: int) -> int:
    """Bytes that a process and its descendants hold at this moment; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {child for task in tasks for child in (task / "children").read_text(encoding="ascii").split()}
    except OSError:  # it has ended meanwhile
        return 0
    own = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return own + sum(resident(int(child)) for child in children)


if __name__ == "__main__":
    main()
