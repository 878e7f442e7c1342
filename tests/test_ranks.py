"""Several processes under torchrun: they agree bit by bit, and train as one process with the larger batch does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgepress.compress import ranks
from edgepress.runtime.errors import DataError

JOB = """\
import sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from torch.nn import functional as F
from edgepress.compress import ranks
from edgepress.compress.data import Data
from edgepress.compress.train import Training, train
from edgepress.runtime.errors import DataError

torch.set_num_threads(1)
ranks.join()
torch.manual_seed(0)
module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
rng = np.random.default_rng(0)
x = rng.standard_normal((6, 8, 4)).astype("float32")
batches = [{"x": part, "label": part.sum(1, keepdims=True)} for part in x]
training = Training(epochs=3, accumulate=int(sys.argv[2]))
train(module, lambda m, b: F.mse_loss(m(b["x"]), b["label"]), Data(training=batches), training, who="job")
assert ranks.from_first(lambda: ranks.rank()) == 0
try:
    ranks.from_first(lambda: (_ for _ in ()).throw(DataError("seen by the first")))
except DataError as error:
    told = str(error)
torch.save([module.state_dict(), told], Path(sys.argv[1]) / f"{ranks.size()}-{ranks.rank()}.pt")
ranks.leave()
"""


def torchrun(processes: int, folder: Path, number: int, *, job: str = JOB, fails: bool = False) -> None:
    """Run the job, with the folder and a number as its arguments."""
    program = folder / "job.py"
    program.write_text(job)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*start, str(program), str(folder), str(number)], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode != 0) == fails, done.stderr


def test_two_processes_hold_the_same_weights_and_those_of_one_with_twice_the_batches(tmp_path):
    torchrun(2, tmp_path, 1)
    torchrun(1, tmp_path, 2)
    first, second, alone = (torch.load(tmp_path / name, weights_only=True) for name in ("2-0.pt", "2-1.pt", "1-0.pt"))
    assert first[1] == second[1] == "seen by the first"
    for name, tensor in alone[0].items():
        assert torch.equal(first[0][name], second[0][name])
        torch.testing.assert_close(first[0][name], tensor, rtol=1e-5, atol=1e-6)


KILLED = """\
import os, signal, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from torch.nn import functional as F
from edgepress.compress import ranks, train
from edgepress.compress.data import Data

folder, dies_at = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
train._SAVE = 0.0  # a checkpoint after every step
ranks.join()
torch.manual_seed(0)
module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
x = np.random.default_rng(0).standard_normal((6, 8, 4)).astype("float32")
batches = [{"x": part, "label": part.sum(1, keepdims=True)} for part in x]

def maybe_die(module, step, steps):
    if step == dies_at and ranks.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)

told = []
data = Data(training=batches, checkpoints=folder / "checkpoints", tell=told.append)
loss = lambda m, b: F.mse_loss(m(b["x"]), b["label"])
train.train(module, loss, data, train.Training(epochs=3), who="job", after_step=maybe_die)
torch.save([module.state_dict(), told[0]], folder / f"{ranks.rank()}.pt")
ranks.leave()
"""


def test_a_worker_that_is_killed_ends_all_and_the_same_command_goes_on_to_the_same_weights(tmp_path):
    folders = {name: tmp_path / name for name in ("whole", "killed")}
    for folder in folders.values():
        folder.mkdir()
    torchrun(2, folders["whole"], 0, job=KILLED)
    torchrun(2, folders["killed"], 5, job=KILLED, fails=True)
    assert not list(folders["killed"].glob("*.pt"))
    torchrun(2, folders["killed"], 0, job=KILLED)
    whole, *resumed = (
        torch.load(folders[name] / f"{rank}.pt", weights_only=True)
        for name, rank in (("whole", 0), ("killed", 0), ("killed", 1))
    )
    assert "goes on after step" in resumed[0][1]
    assert "goes on" not in whole[1]
    for weights, _ in resumed:
        assert all(torch.equal(tensor, whole[0][name]) for name, tensor in weights.items())


def test_without_torchrun_there_is_one_process():
    ranks.join()
    assert (ranks.size(), ranks.rank(), ranks.total(2.5), ranks.from_first(lambda: "made")) == (1, 0, 2.5, "made")
    parameter = torch.nn.Parameter(torch.ones(2))
    ranks.add_gradients([parameter])
    assert parameter.grad is None
    with pytest.raises(DataError, match="told"):
        ranks.from_first(fail)


def fail() -> None:
    raise DataError("told")
