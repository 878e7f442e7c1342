"""The sample's network, ResNet-8 on handwritten digits: bytes, accuracy and speed of int8 beside fp32.

    python benchmarks/digits.py

Runs the whole job of `make demo`. The trained weights are kept, under the hash of the file that trained them.
"""

import hashlib
from dataclasses import replace
from types import ModuleType

from _common import OUT, ROOT, Figure, Watch, import_script, show, times
from safetensors.torch import load_file, save_file

from edgepress.compress.pipeline import compress
from edgepress.compress.recipe import find_recipe
from edgepress.compress.source import Task
from edgepress.devices.budget import parse_budget
from edgepress.devices.device import find_device
from edgepress.devices.measure import Row, measure, speed
from edgepress.runtime import read_artifact

KILOBYTES, POINTS = 105, 0.5
SAMPLE = ROOT / "samples" / "digits" / "task.py"


def main() -> None:
    """Train (or remember), compress, judge and time the two files that come out, print."""
    watch, host = Watch(), find_device("host")
    task = trained()
    report = compress(task.model, find_recipe("int8"), task.data, to="onnx", on=host, budget=parse_budget(""),
                      out=OUT / "digits", force=True)  # fmt: skip
    pair = [read_artifact(OUT / "digits" / name) for name in ("digits-fp32", report.ships)]
    base, row = measure(pair, replace(host, threads=1), score=task.data.score)
    figures = [*judged(base, row), faster("speed, 1 thread", base, row)]
    base, row = measure(pair, replace(host, threads=None))
    figures.append(faster("speed, the engine's threads", base, row))
    show(f"digits ResNet-8, recipe int8, ships {report.ships}", figures, [str(watch)])


def trained(network: str = "ResNet8") -> Task:
    """The sample's task for `ResNet8` or `DsCnn`; its training is spent once for each version of the sample."""
    sample = import_sample()
    kind = getattr(sample, network)
    weights = OUT / f"{network}-{hashlib.sha256(SAMPLE.read_bytes()).hexdigest()[:16]}.safetensors"
    if not weights.exists():
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_file(sample.train(sample.digits(), kind=kind).state_dict(), weights)
    module = kind()
    module.load_state_dict(load_file(weights))
    return sample.judged(module.eval(), sample.digits(), "digits" if network == "ResNet8" else "digits-ds-cnn")


def import_sample() -> ModuleType:
    return import_script(SAMPLE, "digits_sample")


def judged(base: Row, row: Row) -> list[Figure]:
    assert base.score is not None
    assert row.score is not None
    size, before, after = row.bytes / 1e3, 100 * base.score["top1"], 100 * row.score["top1"]
    return [
        Figure("model file", f"{size:.1f} kB", f"<= {KILOBYTES} kB", size <= KILOBYTES,
               f"bytes on disk; fp32: {base.bytes / 1e3:.1f} kB"),
        Figure("accuracy", f"{after:.2f} %", f"within {POINTS} points of {before:.2f} %", before - after <= POINTS,
               "540 held-out scans, through the runtime; one scan is 0.19 points"),
    ]  # fmt: skip


def faster(name: str, base: Row, row: Row) -> Figure:
    assert base.timing is not None
    assert row.timing is not None
    reached = speed(row.timing, base.timing)
    how = f"runtime.bench, one image a call: p50 {base.timing.p50:.3f} -> {row.timing.p50:.3f} ms"
    return Figure(name, times(reached), "> 1x", reached.median > 1, how)


if __name__ == "__main__":
    main()
