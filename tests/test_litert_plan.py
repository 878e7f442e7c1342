"""What LiteRT's delegate took: all of a small file, nothing of one without a kernel for it, part of a mixed one."""

from pathlib import Path

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgepress.export.tflite import write
from edgepress.runtime import load
from edgepress.runtime.litert_plan import placed

from .tflite_check import Graph, build, pooled


def test_an_operator_with_a_kernel_of_xnnpack_runs_there(tmp_path: Path):
    (node,) = load(build(tmp_path / "m.tflite", Graph((1, 3), "run"))).placement.nodes
    assert (node.name, node.op, node.provider, node.unit) == ("y", "ADD", "xnnpack", "xnnpack")


def test_an_operator_without_one_runs_on_the_cpu(tmp_path: Path):
    (node,) = load(build(tmp_path / "m.tflite", Graph((1, 3), "run", dtype="int32"))).placement.nodes
    assert (node.name, node.op, node.provider) == ("y", "ADD", "cpu")


def test_of_a_mixed_file_the_integer_operators_stay_on_the_cpu(tmp_path: Path):
    model = load(write(pooled(), tmp_path))
    units = {node.op: node.unit for node in model.placement.nodes}
    assert units["FULLY_CONNECTED"] == "xnnpack"
    assert units["CAST"] == "cpu"
    assert set(model.placement.providers) == {"xnnpack", "cpu"}


def test_without_a_delegate_all_is_the_cpus(tmp_path: Path):
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    path = build(tmp_path / "m.tflite", Graph((1, 3), "run"), op=schema.BuiltinOperator.ADD)
    interpreter = Interpreter(str(path), experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    assert [node.unit for node in placed(interpreter)] == ["cpu"]
