"""A report as `compress` leaves it, of rows that were never run: a baseline, a pass kept, one undone, the result."""

from collections.abc import Callable
from dataclasses import replace

from edgepress.devices import find_device
from edgepress.devices.measure import Row
from edgepress.devices.report import Report
from edgepress.runtime.artifact import Step
from edgepress.runtime.machine import Doubt


def of_passes(make_row: Callable[..., Row]) -> Report:
    """`digits`, recipe `tiny`: 320 kB at 0.271 ms became 60 kB at 0.1 ms, 0.19 points worse."""
    base = make_row("digits-fp32", 320_000, ms=0.271, score={"top1": 0.9926, "top5": 0.9999})
    cut = make_row("1-structured", 120_000, ms=0.148, score={"top1": 0.9888, "top5": 0.9999})
    slow = make_row("2-weight_only", 70_000, ms=0.35, score={"top1": 0.9888, "top5": 0.9999})
    result = make_row("digits-tiny", 60_000, ms=0.1, score={"top1": 0.9907, "top5": 0.9999}, compressed=45_000)
    rows = (
        base,
        replace(cut, why="0.38x the bytes, 1.83x as fast; top1 -0.38 points"),
        replace(slow, kept=False, why="0.58x the bytes, 2.36x slower; undone: worse latency"),
        replace(
            result,
            why="0.50x the bytes, 1.48x as fast; top1 -0.19 points",
            history=(
                Step("structured", {"share": 0.5}, "half the channels are gone"),
                Step("static_int8", {"bits": 8}),
            ),
            tools={"edgepress": "0.1.0", "onnx": "1.23.2"},
            doubts=(Doubt("noisy", "runs vary by 14 %; close other programs"),),
        ),
    )
    device = replace(find_device("pi5"), name="board", link="local")
    return Report(
        "digits, recipe tiny, on board", device, rows, "size<100kB, drop<1%", ships="digits-tiny", idle=("mixed",)
    )
