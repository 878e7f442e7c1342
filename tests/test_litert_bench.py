"""What LiteRT's benchmark_model prints, taken apart; how it is called stands in test_tool_bench."""

import re

import pytest

from edgepress.devices.litert_bench import complaint, read_told
from edgepress.runtime.errors import DeviceError

# The lines of a phone's run, as benchmark_model.cc prints them.
SAID = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Min num runs: [5]
INFO: Graph: [/data/local/tmp/m.tflite]
INFO: Loaded model /data/local/tmp/m.tflite
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: The input model file size (MB): 8.45746
INFO: Initialized session in 207.799ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=11 first=90710 curr=42743 min=42209 max=90710 avg=48230.2 std=13845 p5=42209 median=42611 p95=90710

INFO: Running benchmark for at least 5 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=24 first=42468 curr=41938 min=41938 max=42840 avg=42394.8 std=188 p5=42133 median=42419 p95=42671

INFO: Inference timings in us: Init: 207799, First inference: 90710, Warmup (avg): 48230.2, Inference (avg): 42394.8
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual \
memory footprint of the model at runtime. Take the information at your discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=23.5938 overall=26.6797
INFO: Overall peak memory footprint (MB) via periodic monitoring: 31.5
INFO: Memory status at the end of exeution:
INFO: - VmRSS              : 30 MB
"""


def test_the_averages_the_runs_and_the_memory_are_read():
    told = read_told(SAID)
    assert (told.load_ms, told.first_ms, told.samples) == (207.799, 90.71, pytest.approx((42.3948,)))
    assert (told.averaged, told.peak_memory) == (24, 31.5 * 2**20)


def test_large_figures_and_equal_runs_are_read_too():
    slow = re.sub(r"42394.8$", "1.23457e+06", SAID, flags=re.MULTILINE)
    assert read_told(slow).samples == pytest.approx((1234.57,))
    same = re.sub(r"count=24 .*", "count=24 curr=42000(all same)", SAID)
    assert read_told(same).averaged == 24
    assert read_told(SAID.replace("Overall peak", "No peak")).peak_memory is None


@pytest.mark.parametrize("said", ["", "hello\n", SAID.replace("timings in us", "timings in ms")])
def test_an_answer_of_something_else_is_told(said):
    with pytest.raises(DeviceError, match=r"answer is not understood \(it ends with .*; expected the line 'Inference"):
        read_told(said)


def test_the_first_error_is_the_one_that_tells():
    said = "INFO: Loaded\nERROR: Node number 57 (BATCH_MATMUL) failed to prepare.\nERROR: Benchmarking failed.\n"
    assert complaint(said) == "Node number 57 (BATCH_MATMUL) failed to prepare."
    assert complaint("Segmentation fault\n\n") == "Segmentation fault"
    assert complaint("") == ""
