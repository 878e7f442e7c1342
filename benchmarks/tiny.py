"""Convolutional networks, smallest and fastest: the recipe `tiny` on ResNet-8 and DS-CNN, beside what other tools make.

    python benchmarks/tiny.py            # five minutes; the first run installs the peers into out/peers

The peers quantize the same fp32 file on the same calibration images, and all files are judged and timed in one run, in
turn, at one thread, one image a call. No peer prunes or distils an ONNX file; int8 is the most that they do to it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from _common import OUT, Figure, Watch, show, times
from _peers import quantized
from digits import trained

from edgepress.compress.pipeline import compress
from edgepress.compress.recipe import find_recipe
from edgepress.devices.budget import parse_budget
from edgepress.devices.device import find_device
from edgepress.devices.measure import Ratio, Row, measure, speed
from edgepress.runtime import read_artifact
from edgepress.runtime.artifact import Artifact

SMALLER, FASTER, POINTS = 4.0, 2.0, 0.5
NETWORKS = ("ResNet8", "DsCnn")
CALIBRATED = 256


def main() -> None:
    """Compress, let the peers quantize, judge and time all, print."""
    parser = argparse.ArgumentParser(description="ResNet-8 and DS-CNN by the recipe tiny, beside other tools.")
    parser.add_argument("--peers", nargs="*", default=["nncf", "olive"], help="nncf, olive (both)")
    peers, watch, notes = parser.parse_args().peers, Watch(), []
    for network in NETWORKS:
        figures, failed = of(network, peers)
        show(f"{network} on digits, recipe tiny", figures)
        notes += failed
    print(*notes, watch, sep="\n")


def of(network: str, peers: Sequence[str]) -> tuple[list[Figure], list[str]]:
    """The figures of one network, and why a peer has none."""
    task, host, out = trained(network), find_device("host"), OUT / f"tiny-{network}"
    report = compress(task.model, find_recipe("tiny"), task.data, to="onnx", on=host,
                      budget=parse_budget("drop<0.5%"), out=out, force=True, tell=print)  # fmt: skip
    fp32, ships = (read_artifact(out / name) for name in (f"{task.model.name}-fp32", report.ships))
    calibration = out / "calibration.npz"
    images = np.concatenate([batch["image"] for batch in task.data.calibration])[:CALIBRATED]
    np.savez(calibration, image=images)
    files: list[Artifact] = []
    failed = []
    for peer in peers:
        made, trouble = quantized(peer, fp32.model, calibration, out / "peers" / f"{peer}.onnx", "convolutional")
        files += [] if made is None else [read_artifact(made)]
        failed += [trouble] if trouble else []
    base, row, *theirs = measure([fp32, ships, *files], replace(host, threads=1), score=task.data.score)
    return [*reached(base, row), *(line(base, other) for other in theirs)], failed


def reached(base: Row, row: Row) -> list[Figure]:
    """Size, speed and accuracy against what was aimed at."""
    smaller, found, lost = base.bytes / row.bytes, timed(base, row), points(base, row)
    return [
        Figure("smaller", f"{smaller:.1f}x", f">= {SMALLER:.0f}x", smaller >= SMALLER,
               f"{base.bytes / 1e3:.1f} -> {row.bytes / 1e3:.1f} kB"),
        Figure("faster", times(found), f">= {FASTER:.0f}x", found.median >= FASTER, latencies(base, row)),
        Figure("points of top-1", f"{-lost:+.2f}", f"at most -{POINTS}", lost <= POINTS, "540 held-out scans"),
    ]  # fmt: skip


def line(base: Row, row: Row) -> Figure:
    """A peer's file in one line."""
    words = (
        f"{base.bytes / row.bytes:.1f}x smaller, {times(timed(base, row))} as fast, {-points(base, row):+.2f} points"
    )
    return Figure(f"peer: {Path(row.name).stem}", words, how=latencies(base, row))


def timed(base: Row, row: Row) -> Ratio:
    assert base.timing is not None
    assert row.timing is not None
    return speed(row.timing, base.timing)


def latencies(base: Row, row: Row) -> str:
    assert base.timing is not None
    assert row.timing is not None
    return f"1 thread: {base.timing.p50:.3f} -> {row.timing.p50:.3f} ms"


def points(base: Row, row: Row) -> float:
    assert base.score is not None
    assert row.score is not None
    return 100 * (base.score["top1"] - row.score["top1"])


if __name__ == "__main__":
    main()
