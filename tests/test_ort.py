"""The ONNX Runtime engine: its settings, its types, and its failures in our words."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgepress.runtime import load
from edgepress.runtime.artifact import Port
from edgepress.runtime.errors import EngineError, UnknownName, UsageError
from edgepress.runtime.ort import start


def saved(
    path: Path, op: str, *, dtype: int = TensorProto.FLOAT, shape: tuple | None = ("batch", 3), **settings
) -> Path:
    """A file with one node from `x` to `y`."""
    x, y = (helper.make_tensor_value_info(name, dtype, shape) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "graph", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (TensorProto.FLOAT, "float32"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.INT8, "int8"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.INT16, "int16"),
        (TensorProto.UINT16, "uint16"),
        (TensorProto.INT32, "int32"),
        (TensorProto.UINT32, "uint32"),
        (TensorProto.INT64, "int64"),
        (TensorProto.UINT64, "uint64"),
        (TensorProto.BOOL, "bool"),
        (TensorProto.STRING, "object"),
    ],
)
def test_every_dtype_goes_in_and_comes_out(tmp_path: Path, dtype: int, name: str):
    model = load(saved(tmp_path / "m.onnx", "Identity", dtype=dtype))
    x = np.array([["a", "b", "c"]], object) if name == "object" else np.array([[0, 1, 1]]).astype(name)
    assert model.inputs == (Port("x", name, ("batch", 3)),)
    assert model(x=x)["y"].dtype == np.dtype(name)
    assert np.array_equal(model(x=x)["y"], x)


def test_a_type_that_numpy_has_not_is_refused_by_name(tmp_path: Path):
    with pytest.raises(EngineError, match=r"'x' of type tensor\(bfloat16\)"):
        load(saved(tmp_path / "m.onnx", "Identity", dtype=TensorProto.BFLOAT16))


def test_an_axis_without_a_name_is_free(tmp_path: Path):
    model = load(saved(tmp_path / "m.onnx", "Neg", shape=(None, 3)))
    assert model.inputs[0].shape == ("?", 3)
    assert model(x=np.ones((4, 3), np.float32))["y"].shape == (4, 3)


def test_a_file_that_states_no_rank_takes_what_the_engine_takes(tmp_path: Path):
    model = load(saved(tmp_path / "m.onnx", "Neg", shape=None))
    for shape in ((), (2,), (2, 3, 4)):
        assert model(x=np.ones(shape, np.float32))["y"].shape == shape


def test_a_scalar_is_an_array_without_axes(tmp_path: Path):
    model = load(saved(tmp_path / "m.onnx", "Neg", shape=()))
    assert model(x=np.array(2, np.float32))["y"] == -2


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x07" * 50])
def test_a_file_that_is_no_model_is_one_line(tmp_path: Path, content: bytes):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(EngineError, match=r"cannot open .*m\.onnx") as error:
        load(tmp_path / "m.onnx")
    assert "\n" not in str(error.value)


def test_a_file_cut_anywhere_is_an_engine_error(linear: Path, tmp_path: Path):
    content = linear.read_bytes()
    for length in range(1, len(content), 7):
        (tmp_path / "m.onnx").write_bytes(content[:length])
        with pytest.raises(EngineError):
            load(tmp_path / "m.onnx")


def test_an_unknown_operator_is_named(tmp_path: Path):
    with pytest.raises(EngineError, match="Nonsense"):
        load(saved(tmp_path / "m.onnx", "Nonsense"))


def test_a_model_that_fails_while_it_runs_is_an_engine_error(tmp_path: Path):
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2, 3])
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n",))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 3))
    model = helper.make_model(helper.make_graph(nodes, "graph", [x], [y], [shape]), ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    session = load(tmp_path / "m.onnx")
    assert session(x=np.ones(6, np.float32))["y"].shape == (2, 3)
    with pytest.raises(EngineError, match="ONNX Runtime stopped") as error:
        session(x=np.ones(7, np.float32))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("providers", ["cpu", ["CPU"], ("CPUExecutionProvider",), ("cpu", "CPUExecutionProvider")])
def test_a_provider_is_named_short_or_in_full(linear: Path, providers: tuple[str, ...]):
    assert start(linear, providers=providers).providers == ("CPUExecutionProvider",)


def test_an_unknown_provider_lists_the_known_ones(linear: Path):
    with pytest.raises(UnknownName, match=r"unknown execution provider 'tpu'; known: .*cpu"):
        load(linear, providers=["tpu"])


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one_are_refused(linear: Path, threads: int):
    with pytest.raises(UsageError, match=f"threads is {threads}"):
        load(linear, threads=threads)


def test_nodes_are_told_as_they_were_after_the_first_fusions(tmp_path: Path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", 2)) for name in ("x", "y"))
    tensors = [onnx.numpy_helper.from_array(np.ones(shape, np.float32), n) for n, shape in (("w", (2, 2)), ("b", (2,)))]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"], "fc"), helper.make_node("Add", ["m", "b"], ["y"], "bias")]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", [x], [y], tensors), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    onnx.save(model, tmp_path / "m.onnx")
    (node,) = start(tmp_path / "m.onnx").placed()
    assert (node.name, node.op, node.provider, node.unit) == ("fc/MatMulAddFusion", "Gemm", "cpu", "cpu")


def test_a_provider_that_this_build_has_not_says_where_it_comes_from(linear: Path):
    with pytest.raises(EngineError, match="qnn is not in this build of ONNX Runtime; it comes with: pip install onnxr"):
        start(linear, providers=["qnn", "cpu"])
    assert start(linear, providers=["cpu", "qnn"]).providers == ("CPUExecutionProvider",)
