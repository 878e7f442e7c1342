"""What the tests of the browser share: whether there is one, small sites, and the processes that it leaves."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgepress.compress.site import site_of
from edgepress.devices.browser import CHROMIUMS
from edgepress.export.formats import export
from edgepress.export.model import Web
from edgepress.runtime.artifact import Artifact

needs_chromium = pytest.mark.skipif(
    not any(map(shutil.which, CHROMIUMS)),
    reason="NO CHROMIUM: nothing of the browser is tested; apt-get install chromium",
)

KINDS = {"half": TensorProto.FLOAT16, "flag": TensorProto.BOOL, "long": TensorProto.INT64, "byte": TensorProto.UINT8}


def digits_site(sample: ModuleType, folder: Path) -> Artifact:
    """A web build of the sample's network as it comes, without training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = sample.ResNet8().eval()
    return export(sample.judged(network, sample.digits()).model, "web", folder)


def kinds_site(folder: Path) -> Artifact:
    """A web build that gives back what it gets, of each of KINDS: ports `NAME` [n, 2], outputs `NAME_back`."""
    folder.mkdir()
    nodes = [helper.make_node("Identity", [name], [f"{name}_back"]) for name in KINDS]
    ports = [[helper.make_tensor_value_info(f"{name}{end}", kind, ["n", 2]) for name, kind in KINDS.items()]
             for end in ("", "_back")]  # fmt: skip
    graph = helper.make_graph(nodes, "kinds", *ports)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "kinds.onnx"
    )
    return site_of(folder / "kinds.onnx", folder / "site", Web())


def all_gone(pids: Sequence[int], seconds: float = 20.0) -> bool:
    """True where none of the processes runs any more, at the latest after so many seconds."""
    end = time.monotonic() + seconds
    while alive := [pid for pid in pids if _runs(pid)]:
        if time.monotonic() > end:
            print("still there:", alive)
            return False
        time.sleep(0.05)
    return True


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
