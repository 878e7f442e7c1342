"""The integers of a model are the integers of its TFLite file and of its ONNX file, and all three dequantize alike."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper
from torch import Tensor, nn

from edgepress.compress.data import Data
from edgepress.compress.static import StaticInt8
from edgepress.compress.weights import in_blocks, per_channel
from edgepress.export import onnx as onnx_exporter
from edgepress.export import tflite
from edgepress.export.model import Model
from edgepress.export.quantized import BlockEmbedding, BlockLinear, Divided, DynamicLinear, PackedLinear
from edgepress.export.tflite_file import TfliteFile, read_file, shape
from edgepress.export.tflite_weights import weights
from edgepress.runtime import litert
from edgepress.runtime.errors import UnsupportedError

from .lower_check import held, unpack
from .quantize_check import largest_difference, random, seeded
from .static_check import DEQUANTIZE, QDQ, constants, nodes


class Layers(nn.Module):
    """One of each: rows are looked up in two tables, and go through four layers, two of them with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        rows = in_blocks(random(50, 64), bits=4, block=32, symmetric=True, half_scales=True)
        self.table = BlockEmbedding(rows)
        self.wide = BlockEmbedding(in_blocks(random(50, 64, seed=1), bits=8, block=64, symmetric=True))
        self.norm = seeded(nn.LayerNorm(64))  # the converter would multiply its weights into those of what follows
        self.dynamic = Divided(random(64).abs() + 0.5, DynamicLinear(per_channel(random(96, 64)), random(96)))
        m, z = torch.randint(1, 8, (64, 3)), torch.randint(0, 16, (64, 3))
        parts = torch.randint(0, 16, (64, 96)), m, z
        self.packed = PackedLinear(*(part.to(torch.uint8) for part in parts), random(64).abs() * 0.01, None, 32)
        self.blocks = BlockLinear(
            in_blocks(random(32, 64), bits=4, block=32, symmetric=True, short_scales=True), random(32)
        )
        self.plain = nn.Linear(32, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.table(ids) + self.wide(ids))
        return self.plain(torch.relu(self.blocks(torch.relu(self.packed(torch.relu(self.dynamic(x)))))))


@pytest.fixture(scope="module")
def model() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = seeded_plain(Layers())
    ids = torch.arange(10).reshape(2, 5)
    axes = {"ids": {0: "batch", 1: "sequence"}}
    return Model("layers", module, {"ids": ids}, ("y",), axes, lengths={"sequence": (5, 8)})


def seeded_plain(module: Layers) -> nn.Module:
    seeded(module.plain)
    return module.eval()


@pytest.fixture(scope="module")
def path(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tflite.write(model, tmp_path_factory.mktemp("layers"))


def stored(file: TfliteFile) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Integers and scales of each quantized weight, by `SHAPE type`: the reference reader, value by value."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for graph, tensor, _ in weights(file):
        sizes = shape(tensor)
        if tensor.type == schema.TensorType.INT8:
            values = file.constant(tensor)
            assert values is not None
            assert set(tensor.quantization.zeroPoint) == {0}
            found.setdefault(f"{sizes} int8", []).append((values, np.asarray(tensor.quantization.scale)))
        elif tensor.type == schema.TensorType.INT4:
            packed = np.frombuffer(bytes(file.model.buffers[tensor.buffer].data), np.uint8)
            nibbles = unpack(packed, 4, packed.size * 2).reshape(sizes).astype(np.int8)
            values = np.where(nibbles > 7, nibbles - 16, nibbles)
            details = tensor.quantization.details
            scale = file.constant(graph.tensors[details.scales])
            assert scale is not None
            assert details.blockSize == sizes[1] // scale.shape[1]
            found.setdefault(f"{sizes} int4", []).append((values, scale.astype(np.float32)))
    return found


def test_the_file_holds_the_integers_of_the_model_and_the_onnx_file_too(model: Model, path: Path, tmp_path: Path):
    module = model.module
    assert isinstance(module, Layers)
    inside = stored(read_file(path))
    assert {kind: len(found) for kind, found in inside.items()} == {
        "(50, 64) int4": 2, "(50, 64) int8": 2, "(96, 64) int8": 2, "(64, 96) int8": 2, "(32, 64) int4": 2,
    }  # fmt: skip
    other = onnx.load(onnx_exporter.write(model, tmp_path))
    for kind, layer, middle, in_onnx in (
        ("(50, 64) int4", module.table, 8, unpack(held(other, "table.values_packed"), 4, 64)),
        ("(50, 64) int8", module.wide, 128, held(other, "wide.values_packed")),
        ("(96, 64) int8", module.dynamic.layer, 0, held(other, "dynamic.values_t").T),
        ("(32, 64) int4", module.blocks, 8, unpack(held(other, "blocks.values_packed").reshape(32, -1), 4, 64)),
    ):
        weight = layer.weight
        for values, scale in inside[kind]:
            assert np.array_equal(values, weight.values.numpy().astype(int) - middle)
            assert np.array_equal(values, in_onnx.astype(int) - middle)
            per_value = np.repeat(
                scale.reshape(len(values), -1), values.shape[1] // scale.reshape(len(values), -1).shape[1], 1
            )
            assert np.array_equal(values.astype(np.float32) * per_value, weight.dequantize().numpy())
    for values, scale in inside["(64, 96) int8"]:  # in ONNX they are 4 bits, made to these when a file is loaded
        assert np.array_equal(values, module.packed.weight.values.numpy())
        assert np.array_equal(scale, module.packed.scale.numpy())


def test_the_file_computes_what_the_layers_say(model: Model, path: Path):
    engine = litert.start(path, threads=1)
    ids = torch.randint(0, 50, (4, 7), generator=torch.Generator().manual_seed(0))
    expected = model(ids=ids)["y"].numpy()
    given = engine.run({"ids": ids.numpy()})["y"]
    # 8 bits for what three products read, one after the other: a percent of the largest
    np.testing.assert_allclose(given, expected, rtol=0, atol=0.02 * np.abs(expected).max())


def test_two_lengths_hold_each_integer_once(path: Path):
    file = read_file(path)
    buffers = [tensor.buffer for _, tensor, _ in weights(file) if tensor.type != schema.TensorType.FLOAT32]
    assert len(buffers) == 10
    assert len(set(buffers)) == 5


def test_a_file_with_such_integers_needs_the_new_library(path: Path):
    assert litert.start(path).needs["engine"] == "ai-edge-litert"


def test_a_table_that_gives_the_same_rows_each_time_is_written_as_floats(tmp_path: Path):
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = BlockEmbedding(in_blocks(random(50, 32), bits=4, block=32, symmetric=True, half_scales=True))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.table(torch.arange(x.shape[1]))

    x = random(2, 6, 32)
    model = Model("net", Positions().eval(), {"x": x}, ("y",), {"x": {0: "batch"}})
    y = litert.start(tflite.write(model, tmp_path)).run({"x": x.numpy()})["y"]
    np.testing.assert_allclose(y, model(x=x)["y"].numpy(), rtol=0, atol=1e-2)  # fp16 rows in the reference
    assert stored(read_file(tmp_path / "model.tflite")) == {}


def test_integers_that_the_converter_has_replaced_are_missed_by_name(tmp_path: Path, path: Path):
    from edgepress.export.tflite_lower import Decision
    from edgepress.export.tflite_weights import put_integers

    weight = per_channel(random(5, 5))
    with pytest.raises(UnsupportedError, match=r"first\.layer: the converter has put other numbers in the place"):
        put_integers(read_file(path), [Decision("first.layer", weight, weight)])


class Picture(nn.Module):
    """Every operator that stays in integers, around convolutions of each kind; a float product is the last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.narrow, self.same = nn.Conv2d(16, 24, 1, stride=2), nn.Conv2d(24, 24, 3, padding=1)
        self.hidden, self.head = nn.Linear(48, 40), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.deep(torch.relu(self.norm(self.stem(x)))))
        x = torch.relu(self.narrow(torch.max_pool2d(x, 2)))
        x = torch.cat([x, self.same(x) + x], 1)
        x = nn.functional.avg_pool2d(x, 2).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))


@pytest.fixture(scope="module")
def picture() -> Model:
    x = random(4, 3, 16, 16)
    made = Model("picture", seeded(Picture()).eval(), {"x": x}, ("y",), {"x": {0: "batch"}})
    return StaticInt8(activation="uint8")(made, Data(calibration=[{"x": x.numpy()}]))


@pytest.fixture(scope="module")
def picture_path(picture: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tflite.write(picture, tmp_path_factory.mktemp("picture"))


def decided(model: Model, target: object) -> list[list[Tensor]]:
    """The constants of each node of the quantized graph that calls `target`."""
    return [constants(model, node) for node in nodes(model, target)]


def test_static_int8_has_the_integers_of_the_graph_and_of_the_onnx_file(
    picture: Model, picture_path: Path, tmp_path: Path
):
    file = read_file(picture_path)
    graph = file.model.subgraphs[0]
    in_onnx = [numpy_helper.to_array(t) for t in onnx.load(onnx_exporter.write(picture, tmp_path)).graph.initializer]
    layers = decided(picture, DEQUANTIZE)
    assert [values.dtype for values, _ in layers] == [torch.int8, torch.int32] * 6
    constants_of_file = [(held, t) for t in graph.tensors if (held := file.constant(t)) is not None]
    for values, scale in layers:
        if values.dtype == torch.int32:
            found = [held for held, _ in constants_of_file if held.dtype == np.int32 and same(held, values)]
            # the last two write floats: their biases are the floats that the integers stand for
            floats = (values.double() * scale.double()).float()
            assert found or any(same(held, floats) for held, _ in constants_of_file if held.dtype == np.float32)
            continue
        matching = [t for held, t in constants_of_file if held.dtype == np.int8 and same(turned(held, values), values)]
        assert len(matching) == 1
        assert np.array_equal(matching[0].quantization.scale, scale.numpy())
        assert any(same(array, values) or same(array.T, values) for array in in_onnx if array.dtype == np.int8)


def test_static_int8_has_the_scales_of_the_graph_and_zero_points_moved_by_128(picture: Model, picture_path: Path):
    graph = read_file(picture_path).model.subgraphs[0]
    found = {
        (float(t.quantization.scale[0]), int(t.quantization.zeroPoint[0]))
        for t in graph.tensors
        if t.type == schema.TensorType.INT8 and len(t.quantization.scale) == 1
    }
    wanted = {(float(scale), int(zero) - 128) for scale, zero in decided(picture, QDQ)}
    assert found == wanted


def test_static_int8_computes_in_integers_what_the_graph_says(picture: Model, picture_path: Path):
    kinds = [name for _, _, name in read_file(picture_path).operators()]
    assert kinds.count("DEQUANTIZE") == 2  # what the float product reads, and its weights
    engine = litert.start(picture_path, threads=1)
    assert engine.needs == {"lengths": {"batch": [1]}}
    x = picture.example["x"]
    expected, given = picture(x=x)["y"].numpy(), engine.run({"x": x.numpy()})["y"]
    # a step of an int8 value is 1/255 of its range, and engines round the last one of a sum either way
    assert largest_difference(given, expected) <= 0.01 * np.abs(expected).max()


def test_int8_and_uint8_activations_make_the_same_file(picture_path: Path, tmp_path: Path):
    x = random(4, 3, 16, 16)
    made = Model("picture", seeded(Picture()).eval(), {"x": x}, ("y",), {"x": {0: "batch"}})
    signed = StaticInt8(activation="int8")(made, Data(calibration=[{"x": x.numpy()}]))
    other = litert.start(tflite.write(signed, tmp_path)).run({"x": x.numpy()})["y"]
    assert np.array_equal(other, litert.start(picture_path).run({"x": x.numpy()})["y"])


def turned(held: np.ndarray, values: Tensor) -> np.ndarray:
    """A weight of the file in torch's order of axes."""
    if held.ndim != 4:
        return held
    order = (3, 0, 1, 2) if values.shape[1] == 1 and held.shape[0] == 1 else (0, 3, 1, 2)
    return held.transpose(order)


def same(array: np.ndarray, values: Tensor) -> bool:
    return array.shape == tuple(values.shape) and np.array_equal(array, values.numpy())
