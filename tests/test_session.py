"""A loaded model runs, and a call that does not fit says what was given and what fits."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgepress.runtime import load, ort
from edgepress.runtime.artifact import MANIFEST
from edgepress.runtime.errors import ArtifactError, EdgepressError, EngineError, PortError, SteppedDown, UnknownName
from edgepress.runtime.session import ENGINES

WEIGHT = np.arange(1, 7, dtype=np.float32).reshape(3, 2)


def test_a_model_gives_its_outputs_by_name(artifact: Path):
    model = load(artifact)
    x = np.array([[1, 0, 2]], np.float32)
    outputs = model(x=x)
    assert list(outputs) == ["y"]
    assert outputs["y"].dtype == np.float32
    assert np.array_equal(outputs["y"], x @ WEIGHT)
    assert [str(port) for port in model.inputs + model.outputs] == ["x float32[batch, 3]", "y float32[batch, 2]"]


@pytest.mark.parametrize("batch", [0, 1, 17])
def test_a_free_axis_takes_any_length(linear: Path, batch: int):
    assert load(linear)(x=np.ones((batch, 3), np.float32))["y"].shape == (batch, 2)


def test_arrays_in_any_memory_order_are_taken(linear: Path):
    x = np.arange(12, dtype=np.float32).reshape(3, 4).T
    assert np.array_equal(load(linear)(x=x)["y"], x @ WEIGHT)
    assert np.array_equal(load(linear)(x=x[::-2])["y"], x[::-2] @ WEIGHT)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "missing the input 'x'; expected x float32[batch, 3]"),
        ({"image": np.ones((1, 3), np.float32)}, "there is no input 'image'; expected x float32[batch, 3]"),
        ({"x": np.ones((1, 3), np.float32), "self": np.ones(1)}, "there is no input 'self'"),
        ({"x": [[1.0, 2.0, 3.0]]}, "input 'x' is a list, not a NumPy array"),
        ({"x": np.float32(1)}, "input 'x' is a float32, not a NumPy array"),
        ({"x": np.ones((1, 3))}, "input 'x' is float64[1, 3]; expected x float32[batch, 3]"),
        ({"x": np.ones((1, 3), ">f4")}, "input 'x' is >f4[1, 3]; expected x float32[batch, 3]"),
        ({"x": np.ones((1, 4), np.float32)}, "input 'x' is float32[1, 4]; expected x float32[batch, 3]"),
        ({"x": np.ones(3, np.float32)}, "input 'x' is float32[3]; expected x float32[batch, 3]"),
        ({"x": np.ones((1, 1, 3), np.float32)}, "input 'x' is float32[1, 1, 3]; expected x float32[batch, 3]"),
    ],
)
def test_a_call_that_does_not_fit_says_what_does(linear: Path, inputs: dict, message: str):
    with pytest.raises(PortError) as error:
        load(linear)(**inputs)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def two_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare file: `y = a + b`, float32, `a` [batch, 3, width, 2] and `b` a scalar."""
    a, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3, "width", 2]) for n in "ay")
    b = helper.make_tensor_value_info("b", TensorProto.FLOAT, [])
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "add", [a, b], [y])
    path = tmp_path_factory.mktemp("add") / "add.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize("shape", [(1, 3, 1, 2), (4, 3, 7, 2), (0, 3, 5, 2)])
def test_free_and_fixed_axes_stand_in_any_order(two_inputs: Path, shape: tuple[int, ...]):
    a = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert np.array_equal(load(two_inputs)(b=np.array(2, np.float32), a=a)["y"], a + 2)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"a": np.ones((1, 3, 1, 2), np.float32)}, "missing the input 'b'"),
        ({"b": np.array(2, np.float32)}, "missing the input 'a'"),
        ({"a": np.ones((1, 3, 1, 3), np.float32), "b": np.array(2, np.float32)}, "'a' is float32[1, 3, 1, 3]"),
        ({"a": np.ones((1, 1, 3, 2), np.float32), "b": np.array(2, np.float32)}, "'a' is float32[1, 1, 3, 2]"),
        ({"a": np.ones((1, 3, 1, 2), np.float32), "b": np.array(2, np.float64)}, "'b' is float64[]"),
        ({"a": np.ones((1, 3, 1, 2), np.float32), "b": 2.0}, "'b' is a float, not a NumPy array"),
        ({"a": np.ones((1, 3, 1, 2), np.float32), "c": np.array(2, np.float32)}, "there is no input 'c'"),
    ],
)
def test_each_of_several_inputs_is_checked(two_inputs: Path, inputs: dict, message: str):
    with pytest.raises(PortError) as error:
        load(two_inputs)(**inputs)
    assert message in str(error.value)


def test_one_model_answers_several_threads(linear: Path):
    model = load(linear, threads=1)
    batches = [np.full((i % 5 + 1, 3), i, np.float32) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(lambda x: model(x=x)["y"], batches))
    assert all(np.array_equal(y, x @ WEIGHT) for x, y in zip(batches, outputs, strict=True))


def test_the_self_test_replays_the_golden_samples(artifact: Path):
    result = load(artifact).selftest()
    assert result.passed
    assert result.cases == 2
    assert result.difference <= 1e-6


def test_the_self_test_of_another_model_fails(artifact: Path):
    content = (artifact / "model.onnx").read_bytes()
    weights = WEIGHT.tobytes()
    assert weights in content
    (artifact / "model.onnx").write_bytes(content.replace(weights, (WEIGHT * 1.01).astype(np.float32).tobytes()))
    result = load(artifact, verify=False).selftest()
    assert not result.passed
    assert result.difference == pytest.approx(0.01, rel=1e-3)


def test_a_bare_file_has_nothing_to_replay(linear: Path):
    with pytest.raises(ArtifactError, match="no golden samples"):
        load(linear).selftest()


def test_a_changed_file_is_refused_before_the_engine_sees_it(artifact: Path):
    (artifact / "labels.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"labels\.json"):
        load(artifact)
    assert load(artifact, verify=False).selftest().passed


def test_a_format_without_an_engine_is_named(artifact: Path):
    manifest = artifact / MANIFEST
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"onnx"', '"tape"'), encoding="utf-8")
    with pytest.raises(UnknownName, match="unknown format 'tape'; known: gguf, onnx, tflite"):
        load(artifact)


def test_importing_the_runtime_imports_no_engine_and_loading_imports_one(linear: Path):
    code = (
        "import sys, edgepress.runtime as r\n"
        "assert 'onnxruntime' not in sys.modules\n"
        f"r.load({str(linear)!r})\n"
        "assert 'onnxruntime' in sys.modules and 'torch' not in sys.modules and 'onnx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_whatever_goes_wrong_is_caught_by_the_root_of_our_errors(tmp_path: Path):
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    for path in (tmp_path / "junk.onnx", tmp_path, tmp_path / "missing"):
        with pytest.raises(EdgepressError):
            load(path)


def test_the_placement_names_every_node_and_its_unit(artifact: Path):
    placement = load(artifact).placement
    assert [(node.op, node.provider, node.unit) for node in placement.nodes] == [("MatMul", "cpu", "cpu")]
    assert placement.asked == ("cpu",)


def test_a_unit_that_is_not_there_is_stepped_down_from_with_a_warning(artifact: Path):
    with pytest.warns(SteppedDown) as said:
        model = load(artifact, providers=("xnnpack", "acl", "cpu"))
    assert [str(warning.message) for warning in said] == [
        f"{artifact} does not run on xnnpack, and goes on with acl: xnnpack is not in this build of ONNX Runtime; ONNX "
        "Runtime's packages for Android and iOS have it, and builds with --use_xnnpack",
        f"{artifact} does not run on acl, and goes on with cpu: acl is not in this build of ONNX Runtime; builds with "
        "--use_acl have it",
    ]
    assert model.asked == ("cpu",)
    assert model.placement.share("cpu") == 1
    assert model.selftest().passed


def test_the_last_unit_has_none_to_step_down_to(artifact: Path):
    with pytest.raises(EngineError, match="acl is not in this build"), pytest.warns(SteppedDown):
        load(artifact, providers=("xnnpack", "acl"))


def test_a_name_that_nobody_knows_is_told_before_any_unit_is_tried(artifact: Path):
    with pytest.raises(UnknownName, match="unknown execution provider 'tpu'"):
        load(artifact, providers=("xnnpack", "tpu", "cpu"))


@pytest.fixture
def wrong_npu(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The artifact, and an NPU that computes wrongly: there the engine runs the same layer with weights 1 % larger."""
    content = (artifact / "model.onnx").read_bytes()
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(content.replace(WEIGHT.tobytes(), (WEIGHT * 1.01).astype(np.float32).tobytes()))

    def start(path, *, threads, providers):
        return ort.start(wrong if providers[0] == "qnn" else path, threads=threads, providers=["cpu"])

    monkeypatch.setitem(ENGINES, "onnx", start)
    return artifact


def test_a_unit_that_computes_wrongly_is_stepped_down_from_and_the_difference_is_told(wrong_npu: Path):
    with pytest.warns(
        SteppedDown, match=r"goes on with cpu: .* computes wrongly on qnn: .* come out 1\.0e-02 apart, 1e-05"
    ):
        model = load(wrong_npu, providers=("qnn", "cpu"))
    assert model.asked == ("cpu",)
    x = np.array([[1, 0, 2]], np.float32)
    assert np.array_equal(model(x=x)["y"], x @ WEIGHT)


def test_a_wrong_unit_that_is_the_only_one_asked_for_is_an_error(wrong_npu: Path):
    with pytest.raises(EngineError, match="computes wrongly on qnn"):
        load(wrong_npu, providers=("qnn",))


def test_without_verify_nothing_is_replayed_and_the_wrong_unit_stays(wrong_npu: Path):
    model = load(wrong_npu, providers=("qnn", "cpu"), verify=False)
    assert model.asked == ("qnn", "cpu")
    assert not model.selftest().passed
