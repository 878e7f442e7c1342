"""The samples run, and reach what they promise."""

import runpy
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file


def accuracy(network: torch.nn.Module, data) -> float:
    with torch.no_grad():
        logits = network(torch.from_numpy(data.test_images)).numpy()
    return float((logits.argmax(-1) == data.test_labels).mean())


def test_the_digits_are_split_once_for_all_and_no_test_image_is_trained_on(digits_sample: ModuleType):
    first, again = digits_sample.digits(), digits_sample.digits()
    assert first.train_images.shape == (1257, 1, 32, 32)
    assert first.test_images.shape == (540, 1, 32, 32)
    assert first.train_images.dtype == np.float32
    assert (first.train_images.min(), first.train_images.max()) == (0, 1)
    assert np.array_equal(first.test_images, again.test_images)
    seen = {image.tobytes() for image in first.train_images}
    assert not any(image.tobytes() in seen for image in first.test_images)
    assert np.bincount(first.test_labels).min() >= 50


def test_resnet8_has_the_shape_of_mlperf_tiny(digits_sample: ModuleType):
    network = digits_sample.ResNet8()
    assert network(torch.zeros(3, 1, 32, 32)).shape == (3, 10)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [16, 16, 16, 32, 32, 32, 64, 64, 64]
    assert sum(p.numel() for p in network.parameters()) == 77_754


def test_ds_cnn_has_the_shape_of_mlperf_tiny(digits_sample: ModuleType):
    """A stem, then four times a depthwise and a pointwise convolution, 64 wide; the stem is 5x5 for square images."""
    network = digits_sample.DsCnn()
    assert network(torch.zeros(3, 1, 32, 32)).shape == (3, 10)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.kernel_size[0], c.groups) for c in convolutions] == [(5, 1), *[(3, 64), (1, 1)] * 4]
    assert {c.out_channels for c in convolutions} == {64}
    assert sum(p.numel() for p in network.parameters()) == 22_090


@pytest.mark.slow
def test_ds_cnn_reaches_what_the_sample_promises(digits_sample: ModuleType):
    task = digits_sample.ds_cnn()
    assert task.model.name == "digits-ds-cnn"
    assert accuracy(task.model.module, digits_sample.digits()) >= 0.98


def test_training_is_deterministic_and_leaves_the_callers_random_numbers_alone(digits_sample: ModuleType):
    data = digits_sample.digits()
    torch.manual_seed(7)
    first = digits_sample.train(data, epochs=1).state_dict()
    drawn = torch.rand(1)
    second = digits_sample.train(data, epochs=1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(1))


def test_the_training_reaches_what_the_sample_promises(digits_weights: Path, digits_sample: ModuleType):
    network = digits_sample.ResNet8()
    network.load_state_dict(load_file(digits_weights))
    assert accuracy(network.eval(), digits_sample.digits()) >= 0.985


def test_a_task_file_around_saved_weights_gives_the_same_network(digits_task: Path, digits_sample: ModuleType):
    task = runpy.run_path(str(digits_task))["task"]()
    assert task.model.name == "digits"
    assert accuracy(task.model.module, digits_sample.digits()) >= 0.98
    assert {len(batch["image"]) for batch in task.data.training} == {64}
    assert sum(len(batch["image"]) for batch in task.data.calibration) == 256

    def session(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        return {k: v.numpy() for k, v in task.model(**{n: torch.from_numpy(a) for n, a in inputs.items()}).items()}

    assert task.data.score(session)["top1"] == pytest.approx(accuracy(task.model.module, digits_sample.digits()))


def test_the_encoder_that_other_tests_use_is_the_real_one(minilm: Path):
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in minilm.iterdir()}
    assert (minilm / "model.safetensors").stat().st_size > 90_000_000
