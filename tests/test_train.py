"""The training loop: what it promises of the rate, the order, the best weights, and what it refuses."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepress.compress.data import Data
from edgepress.compress.train import Training, recomputing, train, validation
from edgepress.export.model import Model
from edgepress.runtime.errors import DataError, TrainingError, UsageError


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1)).eval()


def samples(count: int = 8, size: int = 16) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        x = rng.standard_normal((size, 4)).astype(np.float32)
        found.append({"x": x, "label": np.sin(x.sum(1, keepdims=True))})
    return found


def squared(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return F.mse_loss(module(batch["x"]), batch["label"])


def weights(module: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def test_the_loss_falls_and_the_modes_come_back():
    data, module = Data(training=samples()), network()
    batch = {name: torch.from_numpy(array) for name, array in samples()[0].items()}
    before = squared(module, batch).detach()
    assert train(module, squared, data, Training(epochs=30, rate=0.02), who="demo") is module
    assert squared(module, batch).detach() < 0.6 * before
    assert not any(part.training for part in module.modules())


@pytest.mark.parametrize("dropout", [False, True])
def test_a_seed_decides_all_chance_and_leaves_the_callers_alone(dropout):
    trained = []
    for other in (1, 2):
        module = network()
        torch.manual_seed(other)
        expected = torch.get_rng_state()
        train(module, squared, Data(training=samples()), Training(epochs=2, dropout=dropout), who="demo")
        assert torch.equal(torch.get_rng_state(), expected)
        trained.append(module)
    assert same(*trained)


def test_dropout_is_off_unless_it_is_asked_for():
    """Without dropout another seed changes nothing: the order of a list is its own."""
    results = []
    for dropout in (False, True):
        pair = []
        for seed in (0, 1):
            training = Training(epochs=2, seed=seed, dropout=dropout)
            pair.append(train(network(), squared, Data(training=samples()), training, who="demo"))
        results.append(same(*pair))
    assert results == [True, False]


def test_one_step_is_adamw_with_decay_on_matrices_alone():
    module, twin, batch = network(), network(), samples(1)
    train(module, squared, Data(training=batch), Training(epochs=1, rate=0.01, warmup=0.0, clip=1e9), who="demo")
    twin[1].train()
    F.mse_loss(twin(torch.from_numpy(batch[0]["x"])), torch.from_numpy(batch[0]["label"])).backward()
    for parameter in twin.parameters():  # the first step of Adam: m/(1-b1) = g, v/(1-b2) = g²
        assert parameter.grad is not None
        decay = 0.01 if parameter.ndim > 1 else 0.0
        step = parameter.grad / (parameter.grad.abs() + 1e-8)
        parameter.data = parameter.data * (1 - 0.01 * decay) - 0.01 * step
    for mine, reference in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-6)


def test_accumulated_batches_are_one_large_batch():
    whole = [{name: np.concatenate([b[name] for b in samples(2)]) for name in ("x", "label")}]
    plain = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)) for _ in range(2)]
    plain[1].load_state_dict(plain[0].state_dict())
    train(plain[0], squared, Data(training=samples(2)), Training(epochs=3, accumulate=2), who="demo")
    train(plain[1], squared, Data(training=whole), Training(epochs=3), who="demo")
    for a, b in zip(plain[0].parameters(), plain[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_recomputed_layers_give_the_same_gradients():
    torch.manual_seed(0)
    stack = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))
    x = torch.randn(5, 4)

    def run() -> list[Tensor]:
        y = x
        for layer in stack:
            y = layer(y)
        return list(torch.autograd.grad(y.square().sum(), list(stack.parameters())))

    expected = run()
    with recomputing(stack, on=True):
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            recomputed = run()
    assert all(torch.equal(a, b) for a, b in zip(expected, recomputed, strict=True))
    assert "forward" not in vars(stack[0])


def test_the_rate_warms_up_and_falls_along_half_a_cosine():
    training, steps = Training(rate=0.1, warmup=0.2), 100
    rates = [training.rate_at(step, steps) for step in range(steps)]
    assert rates[:20] == pytest.approx([0.1 * (i + 1) / 20 for i in range(20)])
    assert rates[20:] == pytest.approx([0.05 * (1 + math.cos(math.pi * i / 80)) for i in range(80)])


def test_steps_end_a_training_before_its_epochs_do():
    counted: list[tuple[int, int]] = []
    train(
        network(),
        squared,
        Data(training=samples()),
        Training(epochs=5, steps=11),
        who="demo",
        after_step=lambda module, step, steps: counted.append((step, steps)),
    )
    assert counted == [(i + 1, 11) for i in range(11)]


def test_the_best_weights_are_kept_and_patience_ends_it():
    seen: list[list[Tensor]] = []
    figures = [0.1, 0.9, 0.5, 0.4, 0.99]

    def validate(module: nn.Module) -> float:
        seen.append(weights(module))
        return figures[len(seen) - 1]

    training = Training(epochs=5, patience=2)
    module = train(network(), squared, Data(training=samples()), training, who="demo", validate=validate)
    assert len(seen) == 4  # two epochs without a better one after the second
    assert all(torch.equal(a, b) for a, b in zip(weights(module), seen[1], strict=True))


def test_validation_judges_the_module_in_training():
    model = Model("net", network(), {"input": torch.zeros(2, 4)}, ("y",), {"input": {0: "batch"}})
    score = lambda session: {"mean": float(session(input=np.ones((3, 4), np.float32))["y"].mean())}  # noqa: E731
    validate = validation(model, Data(validation=score))
    other = nn.Linear(4, 1)
    assert validate is not None
    assert validate(other) == pytest.approx(other(torch.ones(3, 4)).mean().item())
    assert validation(model, Data()) is None


def test_progress_tells_epoch_step_loss_validation_and_what_is_left():
    lines: list[str] = []
    data = Data(training=samples(), tell=lines.append)
    train(network(), squared, data, Training(epochs=2), who="demo", validate=lambda module: 0.5)
    assert lines[0].startswith("demo: epoch 1 of 2, step 1 of 16, loss ")
    assert "left" in lines[0]
    assert lines[-1] == "demo: epoch 2 of 2, step 16 of 16, validation 0.5000, best 0.5000"


def test_a_function_of_the_epoch_is_asked_for_each():
    asked: list[int] = []

    def epoch(number: int) -> list[dict[str, np.ndarray]]:
        asked.append(number)
        return samples(2)

    train(network(), squared, Data(training=epoch), Training(epochs=3), who="demo")
    assert asked[-3:] == [0, 1, 2]


@pytest.mark.parametrize("training", [(), lambda epoch: iter(())])
def test_an_empty_training_set_is_refused(training):
    with pytest.raises(DataError, match="demo needs training data and got no batch"):
        train(network(), squared, Data(training=training), Training(), who="demo")


def test_a_loss_that_turns_nan_ends_it_with_the_remedy():
    def loss(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return squared(module, batch) * torch.tensor(math.nan)

    with pytest.raises(TrainingError, match=r"the loss is nan in epoch 1, step 1 of 80; lower the rate"):
        train(network(), loss, Data(training=samples()), Training(), who="demo")


def test_nan_in_the_data_is_named():
    bad = samples(1)
    bad[0]["x"][0, 0] = np.nan
    with pytest.raises(DataError, match="a training batch holds NaN or infinite values in 'x'"):
        train(network(), squared, Data(training=bad), Training(), who="demo")


@pytest.mark.parametrize(
    "settings", [{"epochs": 0}, {"rate": 0.0}, {"warmup": 1.0}, {"clip": -1.0}, {"accumulate": 0}, {"rate": math.nan}]
)
def test_settings_that_cannot_train_are_refused(settings):
    with pytest.raises(UsageError, match=f"training: .*{next(iter(settings))} = "):
        Training(**settings)
