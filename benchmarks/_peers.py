"""Other tools, each in an environment of its own, and what they make of an ONNX file."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _common import ROOT

PEERS = ROOT / "out" / "peers"

# Nobody asks a hub about a folder on this disk.
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}

_ENGINE = ("onnx==1.23.2", "onnxruntime==1.32.0")
# Optimum's ONNX part allows no newer transformers.
_OPTIMUM = ("optimum-onnx[onnxruntime]==0.1.0", "optimum==2.1.0", "transformers==4.57.6", "torch==2.13.0", *_ENGINE)

# Static int8 with bias correction; `transformer` smooths activations too. Arguments: model, calibration, out, kind.
_NNCF = """
import sys, numpy, nncf, onnx
model, calibration, out, kind = sys.argv[1:]
arrays = dict(numpy.load(calibration))
batches = [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(len(next(iter(arrays.values()))))]
extra = {"model_type": nncf.ModelType.TRANSFORMER} if kind == "transformer" else {}
made = nncf.quantize(onnx.load(model), nncf.Dataset(batches), subset_size=len(batches), **extra)
onnx.save(made, out)
"""

# Dynamic int8 per channel, as the tool advises for CPUs with VNNI. Arguments as above.
_ORT_DYNAMIC = """
import sys
from onnxruntime.quantization import QuantType, quantize_dynamic
quantize_dynamic(sys.argv[1], sys.argv[3], per_channel=True, weight_type=QuantType.QInt8)
"""

# Olive's passes for the same, by its own interface: dynamic for transformers, else static. Arguments as above.
_OLIVE = """
import shutil, sys, tempfile, numpy
from pathlib import Path
from olive import run
from olive.data.registry import Registry
model, file, out, kind = sys.argv[1:]

@Registry.register_dataset()
def edgepress_samples(**settings):
    arrays = dict(numpy.load(file))
    count = len(next(iter(arrays.values())))
    return [({name: array[i] for name, array in arrays.items()}, 0) for i in range(count)]

static = {"type": "OnnxStaticQuantization", "data_config": "edgepress_samples", "activation_type": "uint8"}
step = {"type": "OnnxDynamicQuantization"} if kind == "transformer" else static
data = {"name": "edgepress_samples", "type": "DataContainer", "load_dataset_config": {"type": "edgepress_samples"}}
with tempfile.TemporaryDirectory() as folder:
    run({"input_model": {"type": "ONNXModel", "model_path": model}, "data_configs": [data], "output_dir": folder,
         "passes": {"int8": step | {"precision": "int8", "per_channel": True}}, "cache_dir": folder + "/cache"})
    shutil.copy(next(Path(folder).rglob("*.onnx")), out)
"""


@dataclass(frozen=True)
class Peer:
    """Another tool: what is installed for it, and the script that quantizes a file with it."""

    requirements: tuple[str, ...]
    script: str


QUANTIZERS: dict[str, Peer] = {
    "nncf": Peer(("nncf==3.4.0", *_ENGINE), _NNCF),
    "olive": Peer(("olive-ai==0.13.0", "torch==2.13.0", "requests", *_ENGINE), _OLIVE),
    "optimum": Peer(_OPTIMUM, _ORT_DYNAMIC),
}


def environment(name: str, requirements: Sequence[str], folder: Path = PEERS) -> tuple[Path | None, str]:
    """A peer's Python, its environment made if need be; None and the reason where that fails."""
    place = folder / name
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        print(f"installing {name} into {place}; this takes a few minutes", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            return None, done.stderr.strip().splitlines()[-1]
        (place / "complete").touch()
    return python, ""


def quantized(name: str, model: Path, calibration: Path, out: Path, kind: str) -> tuple[Path | None, str]:
    """The file that a peer makes of `model`; None and the last line it said where it fails.

    calibration: an `.npz` of samples by input name, all of one length; kind: `transformer` or `convolutional`.
    """
    peer = QUANTIZERS[name]
    python, trouble = environment(name, peer.requirements)
    if python is None:
        return None, f"{name} could not be installed: {trouble}"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    command = [python, "-c", peer.script, model, calibration, out, kind]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode or not out.is_file():
        return None, f"{name} failed: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]}"
    return out, ""
