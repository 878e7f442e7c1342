"""ResNet-8 and DS-CNN on 1,797 scans of handwritten digits: a task file from top to bottom.

    edgepress compress samples/digits/task.py --recipe int8 --to onnx --on host --out out/
    edgepress compress samples/digits/task.py:ds_cnn --recipe int8 --to onnx --on host --out out/

A task file has a function that returns a `Task`: the model that shall become smaller, and the data to judge it by.
The rest of this file is an ordinary training script: data, network, training. Nothing is downloaded; the scans come
with scikit-learn, and the training takes less than a minute.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from edgepress.compress.data import Data, batches, top1
from edgepress.compress.source import Task
from edgepress.export.model import Model

HELD_OUT = 540
SIDE = 32  # MLPerf Tiny's classifier takes 32x32; the scans are 8x8 and are enlarged
BATCH = 64
EPOCHS = 16


@dataclass(frozen=True)
class Digits:
    """Images are float32 [n, 1, 32, 32] in [0, 1], labels int64 [n]; the test images are never trained on."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def digits() -> Digits:
    """The scans, always split in the same way, each digit with its share on both sides."""
    images, labels = load_digits(return_X_y=True)
    scans = torch.from_numpy(images / 16).float().reshape(-1, 1, 8, 8)
    images = F.interpolate(scans, size=(SIDE, SIDE), mode="bilinear", align_corners=False).numpy()
    train, test = train_test_split(np.arange(len(labels)), test_size=HELD_OUT, random_state=0, stratify=labels)
    return Digits(images[train], labels[train], images[test], labels[test])


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch norm, as they are folded into one when the model is quantized."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """`y = relu(f(x) + shortcut(x))` with two 3x3 convolutions for `f`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv(inputs, outputs, 3, stride)
        self.second = conv(outputs, outputs, 3)
        self.shortcut = nn.Identity() if stride == 1 else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class ResNet8(nn.Module):
    """The image classifier of MLPerf Tiny (Banbury et al. 2021), for one channel: three stacks of 16, 32, 64."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 16, 3)
        self.stacks = nn.Sequential(Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2))
        self.head = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.stacks(F.relu(self.stem(image))).mean((2, 3)))


class DsCnn(nn.Module):
    """The keyword spotter of MLPerf Tiny (Zhang et al. 2017), for images: a stem and four depthwise separable blocks.

    Its stem is 5x5 here, for a square image, where a spectrogram has 10x4.
    """

    def __init__(self, width: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.stem = conv(1, width, 5, 2)
        self.blocks = nn.ModuleList(
            nn.ModuleList([conv(width, width, 3, groups=width), conv(width, width, 1)]) for _ in range(blocks)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.stem(image))
        for depthwise, pointwise in self.blocks:
            x = F.relu(pointwise(F.relu(depthwise(x))))
        return self.head(x.mean((2, 3)))


def train(data: Digits, epochs: int = EPOCHS, kind: type[nn.Module] = ResNet8) -> nn.Module:
    """Train from scratch, always to the same weights on the same machine."""
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(0)
        network = kind()
        images, labels = torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels)
        steps = len(images) // BATCH  # a last, smaller batch is dropped: oneDNN's backward wants even batches
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=epochs * steps)
        for _ in range(epochs):
            order = torch.randperm(len(images))
            for step in range(steps):
                index = order[step * BATCH : (step + 1) * BATCH]
                loss = F.cross_entropy(network(shifted(images[index])), labels[index], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return network.eval()


@contextmanager
def one_thread() -> Iterator[None]:
    """As fast as two for so small a network, and not ten times slower when the machine is busy with something else."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def shifted(images: Tensor) -> Tensor:
    """Move a batch by up to a pixel of the scan, each way: the network sees no digit twice in the same place."""
    reach = SIDE // 8
    down, right = torch.randint(0, 2 * reach + 1, (2,)).tolist()
    return F.pad(images, (reach,) * 4)[..., down : down + SIDE, right : right + SIDE]


def task() -> Task:
    """What `edgepress compress samples/digits/task.py` calls."""
    data = digits()
    return judged(train(data), data)


def ds_cnn() -> Task:
    """The same for the smaller network: `samples/digits/task.py:ds_cnn`."""
    data = digits()
    return judged(train(data, kind=DsCnn), data, "digits-ds-cnn")


def judged(network: nn.Module, data: Digits, name: str = "digits") -> Task:
    """The network and what to judge it by: calibrated on training images, scored on the held-out ones."""
    model = Model(
        name=name,
        module=network,
        example={"image": torch.from_numpy(data.train_images[:2])},
        outputs=("logits",),
        axes={"image": {0: "batch"}},
        assets={"labels.json": json.dumps([str(digit) for digit in range(10)]).encode()},
    )
    whole = len(data.train_images) // BATCH * BATCH
    return Task(
        model,
        Data(
            calibration=batches({"image": data.train_images[:256]}),
            training=batches({"image": data.train_images[:whole], "label": data.train_labels[:whole]}, BATCH),
            score=top1({"image": data.test_images}, data.test_labels, output="logits"),
        ),
    )
