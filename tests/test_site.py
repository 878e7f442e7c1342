"""A web build of a file that is there already: the file as it is, an artifact's golden samples, or invented ones."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import nn

from edgepress.compress.cli_options import is_file
from edgepress.compress.site import site_of
from edgepress.export.formats import TOLERANCE, export, export_family
from edgepress.export.model import Model, Web
from edgepress.runtime.artifact import GOLDEN, Artifact
from edgepress.runtime.errors import ArtifactError, EngineError, ModelError, UnsupportedError
from edgepress.runtime.golden import read_golden

from .quantize_check import chain, random


def network() -> Model:
    layers, assets = chain(nn.Linear(8, 64), nn.Linear(64, 2)), {"labels.json": b'["no", "yes"]'}
    return Model("net", layers, {"x": random(2, 8)}, ("y",), {"x": {0: "batch"}}, assets)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(network(), "onnx", tmp_path_factory.mktemp("site") / "net")


def save(graph: onnx.GraphProto, path: Path) -> None:
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


def golden(site: Artifact) -> list[np.ndarray]:
    return [case.inputs["x"] for case in read_golden(site.path / GOLDEN)]


def test_an_artifact_keeps_its_bytes_its_samples_its_assets_and_its_history(artifact: Artifact, tmp_path: Path):
    site = site_of(artifact.path, tmp_path / "site", Web())
    assert site.model.read_bytes() == artifact.model.read_bytes()
    assert all(np.array_equal(a, b) for a, b in zip(golden(site), golden(artifact), strict=True))
    assert (site.path / "labels.json").read_bytes() == b'["no", "yes"]'
    assert (site.tolerance, site.history, site.source) == (artifact.tolerance, artifact.history, artifact.source)


def test_a_web_build_can_be_laid_out_anew(artifact: Artifact, tmp_path: Path):
    first = site_of(artifact.path, tmp_path / "first", Web(max_file=1000))
    again = site_of(first.path, tmp_path / "again", Web())
    assert again.model.read_bytes() == artifact.model.read_bytes()
    assert [f.name for f in again.files if f.role == "asset"] == ["labels.json"]


def test_a_familys_member_is_named_after_the_family(tmp_path: Path):
    family = export_family(network(), ("onnx",), tmp_path / "fam")
    site = site_of(family.folder("onnx"), tmp_path / "site", Web())
    assert "fam-onnx" in (site.path / "index.html").read_text(encoding="utf-8")


def test_a_bare_file_is_taken_as_it_is_and_run_on_invented_inputs(artifact: Artifact, tmp_path: Path):
    bare = tmp_path / "bare.onnx"
    bare.write_bytes(artifact.model.read_bytes())
    site = site_of(bare, tmp_path / "site", Web())
    assert site.model.read_bytes() == bare.read_bytes()
    assert [sample.shape for sample in golden(site)] == [(1, 8)]
    assert (site.tolerance, site.source["kind"]) == (TOLERANCE["float32"], "onnx")


def test_a_bare_file_is_run_on_the_first_sample_of_the_data_where_there_is_one(artifact: Artifact, tmp_path: Path):
    np.savez(tmp_path / "batch.npz", x=np.full((5, 8), 3, np.float32))
    (tmp_path / "bare.onnx").write_bytes(artifact.model.read_bytes())
    site = site_of(tmp_path / "bare.onnx", tmp_path / "site", Web(), tmp_path / "batch.npz")
    assert np.array_equal(golden(site)[0], np.full((1, 8), 3, np.float32))


def test_weights_that_lie_beside_the_file_are_taken_into_it(artifact: Artifact, tmp_path: Path):
    model = onnx.load(artifact.model)
    for tensor in model.graph.initializer:  # onnx moves raw data only
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, tmp_path / "big.onnx", save_as_external_data=True, location="big.data", size_threshold=0)
    site = site_of(tmp_path / "big.onnx", tmp_path / "site", Web())
    assert not any(t.data_location for t in onnx.load(site.model, load_external_data=False).graph.initializer)
    (tmp_path / "big.data").unlink()
    with pytest.raises((ModelError, EngineError), match=r"big\.(onnx|data)"):
        site_of(tmp_path / "big.onnx", tmp_path / "again", Web())


def test_a_file_that_computes_with_integers_is_given_their_tolerance(tmp_path: Path):
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, ["n", 4])
    node = onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10),
        tmp_path / "q.onnx",
    )
    assert site_of(tmp_path / "q.onnx", tmp_path / "site", Web()).tolerance == TOLERANCE["quantized"]


def test_a_file_that_takes_text_is_refused_by_name(tmp_path: Path):
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.STRING, [1]) for name in ("words", "same")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["words"], ["same"])], "g", ends[:1], ends[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10),
        tmp_path / "t.onnx",
    )
    with pytest.raises(UnsupportedError, match=r"takes text at 'words'; a browser gives it numbers only"):
        site_of(tmp_path / "t.onnx", tmp_path / "site", Web())
    assert not (tmp_path / "site").exists()


def test_what_is_not_onnx_is_refused_by_name(artifact: Artifact, tmp_path: Path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(EngineError, match=r"cannot open .*broken\.onnx"):
        site_of(tmp_path / "broken.onnx", tmp_path / "site", Web())
    (tmp_path / "m.tflite").write_bytes(b"TFL3")
    with pytest.raises(UnsupportedError, match=r"m\.tflite is in the format tflite; a web build is made of an ONNX"):
        site_of(tmp_path / "m.tflite", tmp_path / "site", Web())
    with pytest.raises(ArtifactError):
        site_of(tmp_path / "nothing", tmp_path / "site", Web())
    assert [is_file(str(p)) for p in (artifact.path, tmp_path / "broken.onnx", tmp_path)] == [True, True, False]
