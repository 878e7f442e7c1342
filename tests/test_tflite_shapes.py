"""Lengths for free axes, and the refusal of models that padding or pieces would change."""

import pytest
import torch
from torch import nn

from edgepress.export.model import Model
from edgepress.export.tflite_shapes import DEFAULT_LENGTH, example_at, lengths_of, notes_of, refuse_mixing
from edgepress.export.trace import trace
from edgepress.runtime.artifact import Port
from edgepress.runtime.errors import UnsupportedError, UsageError
from edgepress.runtime.tflite_notes import Notes

from .quantize_check import One, model_of, random
from .tflite_check import pooled


def noted(model: Model) -> Notes:
    return notes_of(model, trace(model))


def test_ports_have_the_free_axes_of_the_model():
    notes = noted(pooled())
    assert notes.inputs == tuple(Port(name, "int64", ("batch", "sequence")) for name in ("ids", "mask"))
    assert notes.outputs == (
        Port("mean", "float32", ("batch", 3)),
        Port("states", "float32", ("batch", "sequence", 3)),
    )
    assert notes.pieces == "batch"


def test_a_model_without_free_axes_has_its_example_s_shapes():
    model = Model("net", nn.ReLU(), {"input": torch.ones(3, 2)}, ("y",), {})
    assert noted(model) == Notes((Port("input", "float32", (3, 2)),), (Port("y", "float32", (3, 2)),))
    assert lengths_of(model, noted(model)) == [{}]


def test_an_axis_that_an_output_has_not_in_front_is_no_axis_of_pieces():
    model = model_of(One(nn.Flatten(0, 0)), x=random(4, 2))
    assert noted(model).pieces == "batch"
    turned = model_of(_of(lambda x: x.T), x=random(4, 2))
    assert noted(turned).pieces == ""


def test_a_sequence_that_nobody_gave_a_length_has_128_and_a_batch_1():
    assert lengths_of(pooled(), noted(pooled())) == [{"batch": 1, "sequence": DEFAULT_LENGTH}]


def test_each_length_that_is_asked_for_is_a_signature_the_shortest_first():
    model = pooled(sequence=(16, 8, 16))
    assert lengths_of(model, noted(model)) == [{"batch": 1, "sequence": 8}, {"batch": 1, "sequence": 16}]
    model = pooled(sequence=(8,), batch=(4,))
    assert lengths_of(model, noted(model)) == [{"batch": 4, "sequence": 8}]


def test_an_example_longer_than_128_is_not_cut():
    model = pooled()
    long = {name: tensor.repeat(1, 40) for name, tensor in model.example.items()}
    model = Model("pooled", model.module, long, model.outputs, model.axes)
    assert lengths_of(model, noted(model)) == [{"batch": 1, "sequence": 200}]


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ({"sequenze": (8,)}, "a length is set for 'sequenze'; the free axes of pooled are: batch, sequence"),
        ({"sequence": (0,)}, r"the lengths of 'sequence' are \[0\]; expected numbers from 1 on"),
        ({"sequence": ()}, r"the lengths of 'sequence' are \[\]; expected numbers from 1 on"),
    ],
)
def test_lengths_that_cannot_be_are_refused(lengths: dict, said: str):
    model = pooled(**lengths)
    with pytest.raises(UsageError, match=said):
        lengths_of(model, noted(model))


def test_an_example_is_cut_or_padded_with_zeros():
    model = pooled()
    given = example_at(model, noted(model), {"batch": 1, "sequence": 7})
    assert given["ids"].tolist() == [[1, 2, 3, 4, 5, 0, 0]]
    assert example_at(model, noted(model), {"batch": 2, "sequence": 3})["ids"].tolist() == [[1, 2, 3], [6, 7, 8]]


def test_a_model_with_a_mask_may_be_padded_and_one_without_is_refused():
    model = pooled()
    refuse_mixing(model, noted(model), lengths_of(model, noted(model)))
    model = pooled(masked=False)
    with pytest.raises(UnsupportedError) as error:
        refuse_mixing(model, noted(model), lengths_of(model, noted(model)))
    assert str(error.value) == (
        "pooled gives other numbers at 'mean' when it is padded with zeros along sequence, as files of fixed shapes "
        "are; leave sequence, batch out of the free axes, or give the model a mask"
    )


def test_a_model_that_mixes_the_samples_of_a_batch_is_refused():
    model = model_of(_of(lambda x: x - x.mean(0, keepdim=True)), x=random(4, 2))
    with pytest.raises(UnsupportedError, match="gives other numbers at 'y' when it is run one sample at a time"):
        refuse_mixing(model, noted(model), lengths_of(model, noted(model)))


def test_an_output_as_long_as_no_axis_is_refused():
    model = model_of(_of(lambda x: torch.cat([x, x])), x=random(4, 2))
    with pytest.raises(UnsupportedError, match=r"output 'y' has the length 2\*batch, which no padding can be cut back"):
        noted(model)


def test_a_type_that_the_format_has_not_is_refused_by_name():
    with pytest.raises(UnsupportedError, match=r"the port 'x' in torch.float64; tflite files have float32, int64"):
        noted(model_of(_of(torch.relu), x=random(4, 2).double()))


class _Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def _of(function) -> nn.Module:
    return _Function(function)


def test_a_length_that_the_model_does_not_run_at_is_refused():
    model = pooled(sequence=(60,))

    def forward(ids, mask, was=model.module.forward):
        return was(ids + torch.arange(ids.shape[1]), mask)  # as positions are: the table has 50

    model.module.forward = forward
    with pytest.raises(UnsupportedError) as error:
        refuse_mixing(model, noted(pooled()), [{"batch": 1, "sequence": 60}])
    assert "pooled does not run at batch 1, sequence 60: index out of range" in str(error.value)
