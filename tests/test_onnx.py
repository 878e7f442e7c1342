"""The ONNX file has the model's ports and free axes, is one file, and computes what the torch reference says."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgepress.compress.data import Data, batches
from edgepress.compress.static import StaticInt8
from edgepress.compress.weights import in_blocks, per_channel
from edgepress.export import onnx as exporter
from edgepress.export.model import Model
from edgepress.export.onnx import write
from edgepress.export.quantized import BlockEmbedding, BlockLinear, DynamicLinear
from edgepress.runtime import load
from edgepress.runtime.artifact import Port
from edgepress.runtime.errors import UnsupportedError

from .lower_check import unpack


@dataclass(frozen=True)
class Written:
    """A model, and the file that was written of it."""

    model: Model
    path: Path

    @property
    def graph(self) -> onnx.GraphProto:
        return onnx.load(self.path).graph

    def constants(self) -> Mapping[str, np.ndarray]:
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}

    def nodes(self, op: str) -> Iterator[onnx.NodeProto]:
        return (node for node in self.graph.node if node.op_type == op)

    def both(self, **inputs: Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What the file gives, and what the module does, for each output."""
        session = load(self.path)
        actual = session(**{name: tensor.numpy() for name, tensor in inputs.items()})
        return ((actual[name], tensor.numpy()) for name, tensor in self.model(**inputs).items())


def weight(rows: int, width: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32))


class Quantized(nn.Module):
    """A layer of each kind; rows of odd width, and blocks that are not full."""

    def __init__(self) -> None:
        super().__init__()
        table, third = weight(40, 33, 0), weight(20, 9, 3)
        self.table = BlockEmbedding(in_blocks(table, bits=4, block=16, symmetric=False, half_scales=True))
        # 7 bits: x86 processors without VNNI add int8 products in 16 bits
        self.first = DynamicLinear(per_channel(weight(9, 33, 1), bits=7), torch.arange(9.0))
        self.second = DynamicLinear(per_channel(weight(9, 33, 2), bits=7))
        self.third = BlockLinear(in_blocks(third, bits=4, block=16, symmetric=True))
        self.fourth = BlockLinear(in_blocks(weight(5, 20, 4), bits=8, block=16, symmetric=False), torch.ones(5))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        h = self.table(ids)
        a = self.first(h) * self.second(h)
        return self.fourth(self.third(a)), a


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Written:
    ids = torch.arange(8).reshape(2, 4)
    model = Model("all", Quantized(), {"ids": ids}, ("y", "a"), {"ids": {0: "batch", 1: "sequence"}})
    return Written(model, write(model, tmp_path_factory.mktemp("quantized")))


def test_a_quantized_model_runs_as_its_torch_reference_at_any_length(quantized: Written):
    for shape in ((1, 1), (3, 7), (2, 4)):
        ids = torch.from_numpy(np.random.default_rng(0).integers(0, 40, shape))
        (y, expected_y), (a, expected_a) = quantized.both(ids=ids)
        np.testing.assert_allclose(a, expected_a, rtol=1e-5, atol=1e-5 * np.abs(expected_a).max())
        # MatMulNBits rounds its input to 8 bits: half a step is 1/254 of a block's largest magnitude, twice in a row
        assert np.abs(y - expected_y).max() <= 2 / 127 * np.abs(expected_y).max()


def test_quantized_layers_become_the_operators_that_are_fast(quantized: Written):
    assert Counter(node.op_type for node in quantized.graph.node if node.op_type != "Slice") == {
        "GatherBlockQuantized": 1, "DynamicQuantizeLinear": 1, "MatMulInteger": 2, "MatMulNBits": 2,
        "Cast": 3, "Mul": 5, "Add": 2,
    }  # fmt: skip


def blockwise(q: np.ndarray, scale: np.ndarray, zero: np.ndarray | int, block: int) -> np.ndarray:
    """`s·(Q − z)`, element by element."""
    rows, width = q.shape
    zeros = np.broadcast_to(zero, scale.shape).astype(int)
    return np.array(
        [[scale[i, j // block] * (int(q[i, j]) - zeros[i, j // block]) for j in range(width)] for i in range(rows)],
        np.float32,
    )


def test_the_integers_in_the_file_dequantize_to_the_numbers_of_the_qtensor(quantized: Written):
    module, constants = quantized.model.module, quantized.constants()
    assert isinstance(module, Quantized)

    (gather,) = quantized.nodes("GatherBlockQuantized")
    values, scale, zero = (constants[gather.input[i]] for i in (0, 2, 3))
    found = blockwise(unpack(values, 4, 33), scale.astype(np.float32), unpack(zero, 4, 3), 16)
    np.testing.assert_array_equal(found, module.table.weight.dequantize().numpy())

    for node, layer in zip(quantized.nodes("MatMulInteger"), (module.first, module.second), strict=True):
        assert np.array_equal(constants[node.input[1]].T, layer.values.numpy())
        assert any(np.array_equal(array, layer.scale.numpy()) for array in constants.values())

    for node, layer in zip(quantized.nodes("MatMulNBits"), (module.third, module.fourth), strict=True):
        settings = {a.name: a.i for a in node.attribute}
        rows, width, bits = settings["N"], settings["K"], settings["bits"]
        assert settings["accuracy_level"] == 4
        assert (rows, width) == layer.values.shape
        q = unpack(constants[node.input[1]], bits, 16).reshape(rows, -1)[:, :width]
        scale = constants[node.input[2]].reshape(rows, -1)
        zero = constants[node.input[3]].reshape(rows, -1) if len(node.input) > 3 and node.input[3] else 1 << (bits - 1)
        zero = zero if isinstance(zero, int) else unpack(zero, bits, scale.shape[1])
        np.testing.assert_array_equal(blockwise(q, scale, zero, 16), layer.weight.dequantize().numpy())


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).mean((2, 3)))


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Written:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, images = Convolutions().eval(), torch.randn(64, 2, 9, 9)
    model = Model("cnn", network, {"image": images[:2]}, ("logits",), {"image": {0: "batch"}})
    made = StaticInt8(reduce_range=True, min_products=1)(model, Data(batches({"image": images.numpy()})))
    return Written(made, write(made, tmp_path_factory.mktemp("static")))


def test_a_static_model_runs_as_its_torch_reference(static: Written):
    images = torch.from_numpy(np.random.default_rng(1).standard_normal((100, 2, 9, 9)).astype(np.float32))
    ((logits, expected),) = static.both(image=images)
    # a sum that lies on a tie may be rounded the other way: a step of an 8-bit activation, through the layers after it
    assert np.abs(logits - expected).max() <= 4 / 255 * np.ptp(expected)
    assert np.abs(logits - expected).mean() <= 0.1 / 255 * np.ptp(expected)


def test_a_static_model_has_a_pair_around_each_product_and_a_pooling_that_is_fast(static: Written):
    found = Counter(node.op_type for node in static.graph.node)
    assert found["Conv"] == 2
    assert found["GlobalAveragePool"] == 1
    assert "ReduceMean" not in found
    assert "BatchNormalization" not in found
    made = {node.output[0]: node.op_type for node in static.graph.node}
    for node in static.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            assert {made[name] for name in node.input[:2]} == {"DequantizeLinear"}


def test_the_weights_of_a_static_model_dequantize_to_the_same_numbers(static: Written):
    constants = static.constants()
    held = [t for t in static.model.module.buffers() if t.dtype in (torch.int8, torch.int32) and t.ndim]
    integers = {tuple(tensor.flatten().tolist()) for tensor in held}
    found = 0
    for node in static.nodes("DequantizeLinear"):
        if node.input[0] in constants:
            values, axis = constants[node.input[0]], next(a.i for a in node.attribute if a.name == "axis")
            stored = values.T if axis == 1 else values
            assert tuple(stored.flatten().tolist()) in integers
            assert constants[node.input[1]].shape == (values.shape[axis],)
            assert not constants[node.input[2]].any()
            found += 1
    assert found == 6  # a weight and a bias for each of the three


class Ports(nn.Module):
    """Outputs that are an input, the same tensor twice, and a shorter one; names that operators have too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, a: Tensor, b: Tensor, unused: Tensor) -> tuple[Tensor, ...]:
        h = self.linear(a)
        return a, h, h, h[:, ::2] + 1, b * 2


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Written:
    example = {"b": torch.ones(2, dtype=torch.int64), "unused": torch.ones(2, 2), "a": torch.randn(2, 4, 3)}
    axes = {"a": {0: "batch", 1: "sequence"}, "b": {0: "batch"}}
    model = Model("ports", Ports(), example, ("copy", "linear", "embedding", "half", "mul"), axes)
    return Written(model, write(model, tmp_path_factory.mktemp("ports")))


def test_ports_have_the_models_names_in_its_order_with_their_free_axes(ports: Written):
    session = load(ports.path)
    assert session.inputs == (
        Port("b", "int64", ("batch",)),
        Port("unused", "float32", (2, 2)),
        Port("a", "float32", ("batch", "sequence", 3)),
    )
    shapes = {port.name: port.shape for port in session.outputs}
    assert list(shapes) == ["copy", "linear", "embedding", "half", "mul"]
    assert shapes["copy"] == shapes["linear"] == shapes["embedding"] == ("batch", "sequence", 3)
    batch, half, width = shapes["half"]
    assert (batch, width) == ("batch", 3)
    assert "sequence" in str(half)
    assert shapes["mul"] == ("batch",)


def test_no_port_takes_anothers_place(ports: Written):
    inputs = {"b": torch.tensor([1, 2, 3]), "unused": torch.zeros(2, 2), "a": torch.randn(3, 5, 3)}
    for actual, expected in ports.both(**inputs):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["quantized", "static", "ports"])
def test_a_model_is_one_file_that_the_checker_likes_with_nothing_for_debuggers(
    name: str, request: pytest.FixtureRequest
):
    written: Written = request.getfixturevalue(name)
    assert [path.name for path in written.path.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(written.path, load_external_data=False)
    assert {opset.domain: opset.version for opset in model.opset_import}[""] == 21
    assert {opset.domain for opset in model.opset_import} <= {"", "com.microsoft"}
    assert not model.functions
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer)
    if name == "ports":  # ONNX's own checker knows no operators of ONNX Runtime's
        onnx.checker.check_model(model, full_check=True)


class Does(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_an_operator_that_onnx_has_not_is_refused_by_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    model = Model("svd", Does(torch.linalg.svdvals), {"x": torch.randn(2, 3, 3)}, ("y",), {"x": {0: "batch"}})
    with pytest.raises(UnsupportedError, match=r"svd cannot be said in ONNX: .*svd") as caught:
        write(model, tmp_path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_what_passes_the_limit_of_one_file_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = Model("net", nn.Linear(5, 3), {"input": torch.ones(2, 5)}, ("y",), {"input": {0: "batch"}})
    assert exporter.MAX_BYTES < 2**31  # protobuf's limit
    monkeypatch.setattr(exporter, "MAX_BYTES", 4 * (5 * 3 + 3) - 1)
    with pytest.raises(UnsupportedError, match=r"weights take .* GB, one ONNX file holds 2 GB; quantize them first"):
        write(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(exporter, "MAX_BYTES", 4 * (5 * 3 + 3))
    assert write(model, tmp_path).is_file()


def test_the_model_that_was_written_is_as_it_was(tmp_path: Path):
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    example = torch.randn(2, 4)
    write(Model("net", network, {"input": example}, ("y",), {"input": {0: "batch"}}), tmp_path)
    assert all(part.training for part in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    x = example.numpy()
    expected = x @ before["0.weight"].numpy().T + before["0.bias"].numpy()  # dropout takes nothing away
    np.testing.assert_allclose(load(tmp_path / "model.onnx")(input=x)["y"], expected, atol=1e-6)
