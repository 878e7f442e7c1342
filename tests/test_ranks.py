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


def torchrun(processes: int, folder: Path, accumulate: int) -> None:
    program = folder / "job.py"
    program.write_text(JOB)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*start, str(program), str(folder), str(accumulate)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_two_processes_hold_the_same_weights_and_those_of_one_with_twice_the_batches(tmp_path):
    torchrun(2, tmp_path, accumulate=1)
    torchrun(1, tmp_path, accumulate=2)
    first, second, alone = (torch.load(tmp_path / name, weights_only=True) for name in ("2-0.pt", "2-1.pt", "1-0.pt"))
    assert first[1] == second[1] == "seen by the first"
    for name, tensor in alone[0].items():
        assert torch.equal(first[0][name], second[0][name])
        torch.testing.assert_close(first[0][name], tensor, rtol=1e-5, atol=1e-6)


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
