"""Units: what the timed session tells of where its nodes ran, and the share of the work that it is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from edgepress.compress.placed import shares
from edgepress.devices.device import find_device
from edgepress.devices.measure import measure
from edgepress.devices.units import UNKNOWN, shares_of, show_elsewhere, whole
from edgepress.runtime.artifact import Artifact, read_artifact
from edgepress.runtime.errors import EngineError
from edgepress.runtime.placement import Placed

from .tflite_check import volume

HOST = replace(find_device("host"), threads=1)
MIXED = (Placed("conv", "Conv", "qnn", "npu"), Placed("act", "Relu", "cpu", "cpu"))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Artifact:
    """A real TFLite file of which LiteRT leaves the largest operator, a convolution in three dimensions, to the CPU."""
    from edgepress.export.tflite import write

    return read_artifact(write(volume(), tmp_path_factory.mktemp("volume")))


def test_all_that_onnx_runtime_ran_is_on_its_cpu(make_artifact):
    for row in measure([make_artifact("base"), make_artifact("small")], HOST, runs=3):
        assert row.placement == {"cpu": 1.0}
        assert row.timing is not None
        assert row.timing.placed == ()  # a report holds shares, not nodes


def test_of_a_mixed_file_each_unit_has_its_share_of_the_multiply_accumulates(volumes):
    (row,) = measure([volumes], HOST, runs=3, shares=shares)
    conv, linear = 8 * 4 * 27, 32 * 10
    assert row.placement is not None
    assert list(row.placement.items()) == [
        ("cpu", pytest.approx(conv / (conv + linear))), ("xnnpack", pytest.approx(linear / (conv + linear)))
    ]  # fmt: skip
    assert show_elsewhere(row.placement, row.format, HOST.units) == (
        "73.0% of the multiply-accumulates on cpu, 27.0% on xnnpack"
    )


def test_what_was_counted_once_is_not_counted_again(volumes):
    (row,) = measure([volumes], HOST, runs=1, shares=shares)
    (again,) = measure([volumes], HOST, runs=1, known=[row])
    assert again.placement == row.placement


def test_a_device_that_does_not_tell_has_no_placement(make_artifact, llama):
    (untimed,) = measure([make_artifact("base")], find_device("pi5"), shares=shares)
    (silent,) = measure([read_artifact(llama[0])], HOST, runs=1, shares=shares)
    assert (untimed.placement, silent.placement) == (None, None)
    assert "not-placed" not in {doubt.code for row in (untimed, silent) for doubt in row.doubts}


def test_one_unit_alone_does_all_of_the_work_and_nobody_counts_it(make_artifact):
    def never(artifact: Artifact, nodes: Sequence[Placed]) -> Mapping[str, float]:
        raise AssertionError(artifact)

    artifact = make_artifact("base")
    assert shares_of(artifact, MIXED[:1], never) == ({"npu": 1.0}, ())
    assert shares_of(artifact, (), never) == (None, ())
    assert shares_of(artifact, MIXED, None) == (None, ())


def test_the_largest_share_is_told_first_and_a_file_without_any_work_has_none(make_artifact):
    artifact = make_artifact("base")
    found, _ = shares_of(artifact, MIXED, lambda artifact, nodes: {"npu": 0.25, "cpu": 0.75})
    assert list(found or {}) == ["cpu", "npu"]
    assert shares_of(artifact, MIXED, lambda artifact, nodes: {}) == (None, ())


def test_where_counting_fails_a_doubt_says_why(make_artifact):
    def fails(artifact: Artifact, nodes: Sequence[Placed]) -> Mapping[str, float]:
        raise EngineError("it does not run with its shapes shown")

    found, (doubt,) = shares_of(make_artifact("base"), MIXED, fails)
    assert found is None
    assert doubt.text == "runs on npu and cpu, in shares that are not known: it does not run with its shapes shown"


@pytest.mark.parametrize(
    ("placement", "form", "asked", "words"),
    [
        ({"cpu": 1.0}, "onnx", ("cpu",), ""),
        (None, "onnx", ("cpu",), ""),
        ({"npu": 1.0, "cpu": 0.0}, "onnx", ("qnn", "cpu"), ""),
        ({"npu": 0.62, "cpu": 0.38}, "onnx", ("qnn", "cpu"), "62.0% of the multiply-accumulates on npu, 38.0% on cpu"),
        ({"cpu": 1.0}, "onnx", ("qnn", "cpu"), "100.0% of the multiply-accumulates on cpu"),
        ({"npu": 0.7, "cpu": 0.2}, "onnx", ("qnn",),
         f"70.0% of the multiply-accumulates on npu, 20.0% on cpu, 10.0% on {UNKNOWN}"),
        ({"xnnpack": 1.0, "cpu": 0.0}, "tflite", ("cpu",), ""),
        ({"cpu": 1.0}, "tflite", ("cpu",), "100.0% of the multiply-accumulates on cpu"),
    ],
)  # fmt: skip
def test_words_are_said_only_where_work_is_not_on_the_unit_that_was_asked_for(placement, form, asked, words):
    assert show_elsewhere(placement, form, asked) == words


def test_the_whole_of_a_placement_adds_up_to_one():
    assert whole({"npu": 1.0, "cpu": 0.0}) == [("npu", 1.0)]
    assert whole({"npu": 0.5, "cpu": 0.25}) == [("npu", 0.5), ("cpu", 0.25), (UNKNOWN, 0.25)]
