"""Does a student learn more from its teacher than from labels? The same network, taught both ways, over three seeds.

    python benchmarks/distillation.py

The teacher is the sample's ResNet-8. The student is DS-CNN at a quarter of its width, drawn anew for each seed; both
ways take as many steps at the same rate. Distillation sees all scans and no label. Labels are there for all scans, and
then for a tenth of them, as where scans are many and labels are dear: the labelled student sees that tenth ten times
as often.
"""

import argparse
import copy
from dataclasses import replace

import numpy as np
import torch
from _common import Figure, Watch, show
from digits import import_sample, trained

from edgepress.compress.data import Data
from edgepress.compress.distill import Distill, FineTune
from edgepress.compress.source import Task
from edgepress.compress.train import Training
from edgepress.export.model import Model

SEEDS = (0, 1, 2)
SHARES = (1.0, 0.1)  # of the scans that have labels
WIDTH = 16


def main() -> None:
    """Teach, judge, print."""
    parser = argparse.ArgumentParser(description="The same student, distilled and trained on labels, over three seeds.")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of each training (20)")
    epochs, watch, task = parser.parse_args().epochs, Watch(), trained()
    figures, won = [], dict.fromkeys(SHARES, 0)
    for seed in SEEDS:
        torch.manual_seed(seed)
        student = import_sample().DsCnn(width=WIDTH)
        training = Training(epochs=epochs, rate=5e-3, seed=seed)
        taught = Distill(student="own", temperature=1.0, training=training)(
            task.model, replace(task.data, student=copy.deepcopy(student))
        )
        own = accuracy(task, taught)
        for share in SHARES:
            learned = replace(training, epochs=round(epochs / share))
            model = replace(task.model, module=copy.deepcopy(student))
            other = accuracy(task, FineTune(learned)(model, labelled(task, share)))
            won[share] += own > other
            words = f"{100 * own:.2f} % distilled, {100 * other:.2f} % on {share:.0%} of the labels"
            figures.append(Figure(f"seed {seed}", words, "distilled is better", own > other, f"{epochs} epochs"))
    for share in SHARES:
        words = f"{won[share]} of {len(SEEDS)} against {share:.0%} of the labels"
        figures.append(Figure("seeds won", words, "all", won[share] == len(SEEDS), "540 held-out scans"))
    show("DS-CNN at a quarter of its width, taught by ResNet-8", figures, [str(watch)])


def labelled(task: Task, share: float) -> Data:
    """The task's data with this share of the labelled scans, the first ones, in batches of about the same size."""
    batches = task.data.training
    every = list(batches(0) if callable(batches) else batches)
    return replace(task.data, training=every[: round(share * len(every))])


def accuracy(task: Task, model: Model) -> float:
    """Top-1 of the module on the held-out scans."""
    score = task.data.score
    assert score is not None

    def session(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        outputs = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return score(session)["top1"]


if __name__ == "__main__":
    main()
