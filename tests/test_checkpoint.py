"""A training that is killed goes on where it was, and ends with the same weights."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress import checkpoint

# Trains for a few seconds with dropout, accumulation and validation, and prints a hash of the weights it ends with.
JOB = """\
import hashlib, sys, time
from pathlib import Path
import numpy as np, torch
from torch import nn
from torch.nn import functional as F
from edgepress.compress import train as loop
from edgepress.compress.data import Data

loop._SAVE = 0.05
torch.set_num_threads(1)
torch.manual_seed(0)
module = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))


def epoch(number):
    rng = np.random.default_rng(number)
    for _ in range(40):
        x = rng.standard_normal((8, 4)).astype("float32")
        yield {"x": x, "label": np.sin(x.sum(1, keepdims=True))}


def loss(module, batch):
    time.sleep(0.004)
    return F.mse_loss(module(batch["x"]), batch["label"])


data = Data(training=epoch, checkpoints=Path(sys.argv[1]), tell=lambda text: print(text, flush=True))
settings = loop.Training(epochs=8, accumulate=2, dropout=True, rate=0.01)
validate = lambda module: -float((module(torch.ones(2, 4)) - 0.5).abs().sum())
loop.train(module, loss, data, settings, who="job", validate=validate)
state = b"".join(tensor.numpy().tobytes() for tensor in module.state_dict().values())
print("weights", hashlib.sha256(state).hexdigest(), flush=True)
"""


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(folder)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )


def finish(job: subprocess.Popen) -> list[str]:
    printed, _ = job.communicate()
    assert job.returncode == 0
    return printed.splitlines()


def test_a_run_killed_twice_ends_with_the_weights_of_one_that_was_not(tmp_path):
    expected = finish(start(tmp_path / "whole"))[-1]
    assert expected.startswith("weights ")
    folder = tmp_path / "killed"
    for _ in range(2):
        before = (folder / checkpoint.FILE).stat().st_mtime_ns if folder.exists() else 0
        job = start(folder)
        while job.poll() is None and not (
            (folder / checkpoint.FILE).exists() and (folder / checkpoint.FILE).stat().st_mtime_ns > before
        ):
            time.sleep(0.01)
        time.sleep(0.15)
        job.send_signal(signal.SIGKILL)
        job.communicate()
        assert job.returncode == -signal.SIGKILL
    lines = finish(start(folder))
    assert lines[0].startswith("job: goes on after step ")
    assert lines[-1] == expected
    assert finish(start(folder)) == [expected]  # finished: nothing is trained again


@pytest.fixture
def held(tmp_path: Path) -> tuple[Path, nn.Module, torch.optim.Optimizer]:
    module = nn.Linear(3, 2)
    return tmp_path, module, torch.optim.AdamW(module.parameters())


def test_what_is_saved_comes_back(held):
    folder, module, optimizer = held
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint.save(folder, "run", module, optimizer, {"epoch": 3, "kept": {"weight": torch.ones(2)}})
    chance = torch.rand(3)
    other = nn.Linear(3, 2)
    again = torch.optim.AdamW(other.parameters())
    found = checkpoint.read(folder, "run")
    assert found is not None
    state = checkpoint.restore(found, other, again)
    assert state["epoch"] == 3
    assert torch.equal(state["kept"]["weight"], torch.ones(2))
    assert torch.equal(other.weight, module.weight)
    assert torch.equal(torch.rand(3), chance)
    assert str(again.state_dict()) == str(optimizer.state_dict())


def test_another_runs_checkpoint_is_not_taken(held):
    folder, module, optimizer = held
    checkpoint.save(folder, "one", module, optimizer, {})
    assert checkpoint.read(folder, "other") is None


@pytest.mark.parametrize("content", [None, b"", b"half a checkpoint"])
def test_what_is_no_checkpoint_is_passed_over(tmp_path, content):
    if content is not None:
        (tmp_path / checkpoint.FILE).write_bytes(content)
    assert checkpoint.read(tmp_path, "run") is None


def test_settings_weights_and_data_make_the_identity():
    torch.manual_seed(0)
    module, batch = nn.Linear(2, 2), {"x": np.ones(2, np.float32)}
    same = checkpoint.identity("who", 1, module, [batch])
    assert same == checkpoint.identity("who", 1, module, [batch])
    others = {
        checkpoint.identity("else", 1, module, [batch]),
        checkpoint.identity("who", 2, module, [batch]),
        checkpoint.identity("who", 1, nn.Linear(2, 2), [batch]),
        checkpoint.identity("who", 1, module, [{"x": np.zeros(2, np.float32)}]),
    }
    assert len({same, *others}) == 5
