"""Providers, for real: OpenVINO, and QNN with the Hexagon simulator of its wheel, each in an environment of its own.

    python benchmarks/digits.py && python benchmarks/providers.py     # or: providers.py ARTIFACT

Loads the artifact (int8 digits), and the same with fixed shapes, on each provider with the CPU behind it: what is
stepped down from, how many nodes run where, how far the golden samples come out. Installs onnxruntime-openvino and
onnxruntime-qnn (read its licence) into `out/peers`. The simulator's times say nothing, so none are told.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _common import OUT, ROOT, Figure, Watch, show

from edgepress.export.fixed import fix
from edgepress.runtime.artifact import read_artifact

PEERS = ROOT / "out" / "peers"
# Provider -> what pip installs, and the order that `load` gets.
TRIALS = {
    "openvino": (("onnxruntime-openvino", "numpy"), ("openvino-npu", "openvino-gpu", "openvino", "cpu")),
    "qnn": (("onnxruntime", "onnxruntime-qnn", "numpy"), ("qnn", "cpu")),
}
SHARE = 0.9
TRIAL = """\
import json, sys, warnings
from edgepress.runtime import load
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    model = load(sys.argv[1], providers=sys.argv[2:], threads=1)
seen = model.selftest()
print(json.dumps({"asked": model.asked, "counts": dict(model.placement.counts()), "difference": seen.difference,
                  "tolerance": seen.tolerance, "said": [str(warning.message) for warning in said]}))
"""


def main() -> None:
    """Install what is missing, load on each provider, print."""
    parser = argparse.ArgumentParser(description="What runs on OpenVINO and on QNN's simulated NPU.")
    parser.add_argument(
        "artifact", type=Path, nargs="?", default=OUT / "digits" / "digits-int8", help="an ONNX artifact"
    )
    given = parser.parse_args().artifact
    watch, figures, notes = Watch(), [], []
    with tempfile.TemporaryDirectory() as folder:
        fixed = fix(read_artifact(given), Path(folder) / "fixed").path
        for provider, (packages, order) in TRIALS.items():
            python = environment(provider, packages)
            for what, path in (("as it is", given), ("fixed shapes", fixed)):
                found = trial(python, path.resolve(), order)
                share = found["counts"].get(provider, 0) / sum(found["counts"].values())
                wanted = provider == "openvino" or what == "fixed shapes"
                words = ", ".join(f"{count} {name}" for name, count in found["counts"].items())
                how = f"golden samples {found['difference']:.1e} apart, {found['tolerance']:.0e} allowed"
                target = f"> {SHARE:.0%} of the nodes on {provider}" if wanted else "steps down"
                met = share > SHARE if wanted else share == 0
                figures.append(Figure(f"{provider}, {what}", words, target, met, how))
                notes += [f"{provider}, {what}: {line}" for line in found["said"]]
    show(f"{given.name} on other providers", figures, [*notes, str(watch)])


def environment(name: str, packages: tuple[str, ...]) -> Path:
    """The Python of an environment with these packages; made once."""
    python = PEERS / f"provider-{name}" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def trial(python: Path, artifact: Path, order: tuple[str, ...]) -> dict:
    """What `load` makes of an artifact there, with this repository on the path and nothing else of ours."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "edgepress").symlink_to(ROOT)
        done = subprocess.run(
            [python, "-c", TRIAL, artifact, *order], env=os.environ | {"PYTHONPATH": folder}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().rpartition("\n")[2])  # the simulator prints before


if __name__ == "__main__":
    main()
