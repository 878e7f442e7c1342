"""Distillation on real digits: a student learns from its teacher, and what cannot be learned is refused."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgepress.compress.data import Data, batches
from edgepress.compress.distill import Distill, FineTune
from edgepress.compress.layers import with_layers
from edgepress.compress.train import Training
from edgepress.export.model import Model
from edgepress.runtime.artifact import Step
from edgepress.runtime.errors import DataError, ModelError, UsageError


class Stack(nn.Module):
    """Layers of one width between two linear ones."""

    def __init__(self, depth: int, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.first = nn.Linear(64, width)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth))
        self.last = nn.Linear(width, classes)

    def forward(self, scan: Tensor) -> Tensor:
        x = self.first(scan)
        for layer in self.layers:
            x = x + layer(x)
        return self.last(x)


@pytest.fixture(scope="module")
def scans() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels


@pytest.fixture(scope="module")
def teacher(scans) -> Model:
    torch.manual_seed(0)
    images, labels = scans
    model = Model("stack", Stack(4), {"scan": torch.zeros(2, 64)}, ("logits",), {"scan": {0: "batch"}})
    data = Data(training=batches({"scan": images[:1200], "label": labels[:1200]}, 64))
    return Model("stack", FineTune(Training(epochs=20, rate=0.005))(model, data).module, *model_rest(model))


def model_rest(model: Model) -> tuple:
    return model.example, model.outputs, model.axes


def accuracy(module: nn.Module, scans) -> float:
    images, labels = scans
    with torch.no_grad():
        return float((module(torch.from_numpy(images[1200:])).argmax(-1).numpy() == labels[1200:]).mean())


def training(scans, *, labels: bool = False) -> list:
    images, known = scans
    return batches({"scan": images[:1200]} | ({"label": known[:1200]} if labels else {}), 64)


def test_fine_tuning_learns_from_labels_alone(teacher, scans):
    assert accuracy(teacher.module, scans) > 0.9


@pytest.mark.parametrize("terms", [{"output": 1.0}, {"output": 1.0, "hidden": 0.5}])
def test_an_unlabelled_student_of_its_own_shape_comes_near_its_teacher(teacher, scans, terms):
    torch.manual_seed(1)
    data = Data(training=training(scans), student=Stack(2))
    settings = Distill(student="own", training=Training(epochs=15, rate=0.005), **terms)
    before = [p.detach().clone() for p in teacher.module.parameters()]
    student = settings(teacher, data)
    x = torch.from_numpy(scans[0][1200:])
    with torch.no_grad():
        agreement = float((student.module(x).argmax(-1) == teacher.module(x).argmax(-1)).float().mean())
    assert agreement > 0.9
    assert student.history[-1].name == "distill"
    assert student.teacher is teacher
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.module.parameters(), strict=True))
    assert data.student is not student.module


def test_a_narrower_student_learns_states_through_projections_that_stay_behind(teacher, scans):
    torch.manual_seed(1)
    data = Data(training=training(scans), student=Stack(2, width=8))
    student = Distill(student="own", hidden=1.0, training=Training(epochs=2))(teacher, data)
    assert {name.partition(".")[0] for name, _ in student.module.named_parameters()} == {"first", "layers", "last"}


def test_the_same_seed_gives_the_same_student(teacher, scans):
    torch.manual_seed(1)
    own = Stack(2, width=8)
    made = []
    for _ in range(2):
        settings = Distill(student="own", hidden=1.0, training=Training(epochs=1, dropout=True))
        made.append(settings(teacher, Data(training=training(scans), student=own)).module)
    for a, b in zip(*(module.parameters() for module in made), strict=True):
        assert torch.equal(a, b)


def test_zeros_of_the_model_in_hand_stay_zeros(teacher, scans):
    pruned = Stack(4)
    pruned.load_state_dict(teacher.module.state_dict())
    with torch.no_grad():
        pruned.first.weight[:, ::2] = 0
    model = teacher.then(pruned, teacher.history[0] if teacher.history else step())
    student = Distill(training=Training(epochs=2))(model, Data(training=training(scans)))
    weight = student.module.get_submodule("first").weight
    assert isinstance(weight, Tensor)
    assert torch.equal(weight[:, ::2], torch.zeros(16, 32))
    assert not torch.equal(weight, pruned.first.weight)


def step():
    from edgepress.runtime.artifact import Step

    return Step("pruned", {}, "")


def test_a_text_encoders_shallow_copy_learns_hidden_states_and_relations(minilm, tmp_path):
    """The whole loss on a real encoder: every term falls within a few steps."""
    from edgepress.compress.encoder import read_encoder

    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"Sentence number {i} tells of {i * 7} things." for i in range(200)))
    task = read_encoder(minilm, texts)
    encoder = task.model.module.get_submodule("encoder.encoder")
    kept = nn.ModuleList(list(encoder.get_submodule("layer"))[1::2])
    from edgepress.compress.layers import with_layers

    shallow = with_layers(task.model.module, {"encoder.encoder.layer": kept})
    model = task.model.then(shallow, step())
    data = Data(training=task.data.training)
    settings = Distill(hidden=1.0, attention=1.0, training=Training(epochs=3, rate=2e-4))
    student = settings(model, data)
    batch = {n: torch.from_numpy(a) for n, a in next(iter(task.data.training(9))).items()}  # pyright: ignore
    with torch.no_grad():
        cosines = [
            float(nn.functional.cosine_similarity(m(**batch), task.model.module(**batch)).mean())
            for m in (shallow, student.module)
        ]
    assert cosines[1] > cosines[0] + 0.02


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"output": 0.0}, "expected none below 0, and one above it"),
        ({"hidden": -1.0}, "expected none below 0"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"relation_heads": 0}, "relation_heads = 0"),
    ],
)
def test_settings_that_cannot_teach_are_refused(settings, match):
    with pytest.raises(UsageError, match=match):
        Distill(**settings)


def test_a_student_whose_outputs_do_not_fit_is_refused(teacher, scans):
    data = Data(training=training(scans), student=Stack(2, classes=7))
    with pytest.raises(ModelError, match=r"shapes \[\[64, 7\]\], its teacher's \[\[64, 10\]\]"):
        Distill(student="own")(teacher, data)


def test_a_model_that_is_as_it_came_has_nothing_to_learn_from_itself(teacher, scans):
    assert Distill()(teacher, Data(training=training(scans))) is teacher


def test_a_missing_student_labels_or_data_are_one_line(teacher, scans):
    with pytest.raises(UsageError, match="the task brings none"):
        Distill(student="own")(teacher, Data(training=training(scans)))
    with pytest.raises(DataError, match="distill needs the training batches' 'label'"):
        Distill(labels=1.0)(teacher, Data(training=training(scans)))
    with pytest.raises(DataError, match="finetune needs the training batches' 'label'"):
        FineTune()(teacher, Data(training=training(scans)))
    changed = teacher.then(with_layers(teacher.module, {}), Step("cut", {}))
    with pytest.raises(DataError, match="distill needs training data"):
        Distill()(changed, Data())
