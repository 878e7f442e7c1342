"""A report as `compress` leaves it, of rows that were never run: a baseline, a pass kept, one undone, the result."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from edgepress.devices import find_device
from edgepress.devices.device import unreached
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


def of_devices(make_row: Callable[..., Row]) -> tuple[Report, ...]:
    """`digits-int8` on a board with an NPU, on a slow one that is over the budget, on a profile, on one that failed."""
    kitchen, cellar, pi5 = (replace(find_device("pi5"), name=name) for name in ("kitchen", "cellar", "pi5"))
    budget, gone = "latency<0.3ms", "cannot reach 10.0.0.9 (Connection timed out); is it on, and does ssh reach it?"
    over = ("latency 0.481 ms, budget < 0.3 ms",)
    quick = _pair(make_row, (0.271, 0.148), "1", {"npu": 0.4, "gpu": 0.2, "xnnpack": 0.2, "cpu": 0.2})
    slow = _pair(make_row, (0.844, 0.481), "2", {"cpu": 1.0}, Doubt("governor", "the frequency governor is ondemand"))
    untimed = _pair(make_row, (None, None), "3", None, Doubt("not-timed", "nothing was timed on pi5"))
    unknown = ("latency not measured on pi5, budget < 0.3 ms",)
    ships = "digits-int8"
    kitchen = replace(kitchen, units=("qnn", "cpu"), link="ssh://pi@10.0.0.7")
    cellar = replace(cellar, link="ssh://pi@10.0.0.8")
    return (
        Report("digits-int8 on kitchen", kitchen, quick, budget, ships=ships),
        Report("digits-int8 on cellar", cellar, slow, budget, over, ships),
        Report("digits-int8 on pi5", pi5, untimed, budget, unknown, ships),
        Report("not measured on attic", unreached("attic", "ssh://pi@10.0.0.9"), (), failure=gone),
    )


def _pair(
    make_row: Callable[..., Row],
    ms: tuple[float | None, float | None],
    run: str,
    placement: Mapping[str, float] | None,
    *doubts: Doubt,
) -> tuple[Row, ...]:
    rows = (
        make_row("digits-fp32", 320_000, ms=ms[0], run=run, score={"top1": 0.9926, "top5": 0.9999}),
        make_row("digits-int8", 98_000, ms=ms[1], run=run, score={"top1": 0.9907, "top5": 0.9999}, compressed=80_000),
    )
    return tuple(replace(row, placement=placement, doubts=doubts) for row in rows)
