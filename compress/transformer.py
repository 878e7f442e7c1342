"""The parts of a transformer that can be cut: neurons of its feed-forward layers, attention heads, whole layers.

    FFN(x) = W_out·σ(W_in·x + b_in) + b_out = Σ_j W_out[:, j]·σ(W_in[j]·x + b_in[j]) + b_out        (a term a neuron)
    MHA(x) = Σ_h W_o[:, h]·softmax(q_h k_hᵀ/√d)·v_h + b_o                                            (a term a head)

Michel et al. 2019 (heads), McCarley et al. 2019 (neurons), Sajjad et al. 2020 (layers). Classes are known by name;
others are refused by name or left alone.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..runtime.errors import UnsupportedError
from .groups import Group, inputs_left, outputs_left
from .layers import with_layers


@dataclass(frozen=True)
class Anatomy:
    """Where the parts of a layer are, as paths below it. No `attention`: its heads cannot be cut, and `why`.

    `counts` are the attributes of `attention` that hold the number of heads, `widths` those that hold heads·size.
    """

    inner: str
    outer: str
    attention: str = ""
    projections: tuple[str, ...] = ()
    output: str = ""
    counts: tuple[str, ...] = ("num_attention_heads",)
    widths: tuple[str, ...] = ("all_head_size",)
    why: str = ""


_BERT = Anatomy(
    "intermediate.dense", "output.dense", "attention.self",
    ("attention.self.query", "attention.self.key", "attention.self.value"), "attention.output.dense",
)  # fmt: skip

LAYERS: dict[str, Anatomy] = {
    **dict.fromkeys(("BertLayer", "CamembertLayer", "ElectraLayer", "RobertaLayer", "XLMRobertaLayer"), _BERT),
    "AlbertLayer": Anatomy(
        "ffn", "ffn_output", "attention", ("attention.query", "attention.key", "attention.value"), "attention.dense"
    ),
    "TransformerBlock": Anatomy(
        "ffn.lin1", "ffn.lin2", "attention", ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        "attention.out_lin", ("n_heads",), (),
    ),
    "MPNetLayer": Anatomy(
        "intermediate.dense", "output.dense", why="all layers share one table of position biases, a column a head"
    ),
    "TransformerEncoderLayer": Anatomy(
        "linear1", "linear2", why="torch's MultiheadAttention is as wide as its input, whatever its heads"
    ),
}  # fmt: skip

# Functions of each value alone: between two linear layers, they keep neurons apart.
_ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
                nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Dropout, nn.Identity)  # fmt: skip


def layers_of(module: nn.Module) -> Iterator[tuple[str, nn.Module, Anatomy]]:
    """The transformer layers that are understood, each with its name."""
    for name, part in module.named_modules():
        if type(part).__name__ in LAYERS:
            yield name, part, LAYERS[type(part).__name__]


def neurons(module: nn.Module) -> list[Group]:
    """A group for each feed-forward part, all kept; also for `Linear, activation, Linear` in a row in a Sequential.

    Raises UnsupportedError where one of its layers is no plain Linear any more.
    """
    pairs = [(_below(name, a.inner), _below(name, a.outer)) for name, _, a in layers_of(module)]
    pairs += _in_sequence(module)
    groups = []
    for inner, outer in pairs:
        width = _linear(module, inner).out_features
        _linear(module, outer)
        units = torch.arange(width)
        groups.append(Group(inner, "neurons", width, tuple(range(width)), {inner: units}, {outer: units}))
    return groups


def heads(module: nn.Module) -> list[Group]:
    """A group for each attention, all heads kept; `why` is set where they cannot be cut.

    Raises UnsupportedError where one of its layers is no plain Linear any more.
    """
    groups = []
    for name, layer, anatomy in layers_of(module):
        if not anatomy.attention:
            groups.append(Group(f"{name}.heads", "heads", 0, (), {}, {}, anatomy.why))
            continue
        number = getattr(layer.get_submodule(anatomy.attention), anatomy.counts[0])
        projections = [_below(name, path) for path in anatomy.projections]
        output = _below(name, anatomy.output)
        width = _linear(module, output).in_features
        units = torch.arange(width) // (width // number)
        for path in projections:
            _linear(module, path)
        everything = tuple(range(number))
        rows = {path: units.clone() for path in projections}
        groups.append(Group(_below(name, anatomy.attention), "heads", number, everything, rows, {output: units}))
    return groups


def stack(module: nn.Module) -> Group | None:
    """The list of layers of a transformer, all kept: the longest one; None where there is none.

    `why` is set where layers cannot go.
    """
    lists = {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.ModuleList) and part and all(type(child).__name__ in LAYERS for child in part)
    }
    if not lists:
        return None
    name = max(lists, key=lambda name: len(lists[name]))
    size = len(lists[name])
    shared = type(lists[name][0]).__name__ == "AlbertLayer"
    why = "one set of weights is run again and again" if shared else ""
    return Group(name, "layers", size, tuple(range(size)), {}, {}, why)


def refuse_unknown(module: nn.Module, setting: str) -> None:
    """Raises UnsupportedError where the module has attention and none of its layers is known."""
    attention = next((n for n, part in module.named_modules() if "Attention" in type(part).__name__), "")
    if attention and not any(layers_of(module)):
        kind = type(module.get_submodule(attention)).__name__
        known = ", ".join(LAYERS)
        raise UnsupportedError(f"structured: {attention} is a {kind}, in no layer that is known ({known}); {setting}")


def with_units(module: nn.Module, groups: Sequence[Group]) -> nn.Module:
    """A copy whose Linear layers have only the rows and columns of the units that are kept."""
    names = {name for group in groups for name in (*group.rows, *group.columns)}
    narrow = {n: _narrow(_linear(module, n), outputs_left(n, groups), inputs_left(n, groups)) for n in names}
    result = with_layers(module, narrow)
    for group in groups:
        if group.kind == "heads":
            _count_heads(result, group)
    return result


def with_depth(module: nn.Module, group: Group) -> nn.Module:
    """A copy with the layers that are kept, in their order."""
    result = copy.deepcopy(module)
    layers = result.get_submodule(group.name)
    assert isinstance(layers, nn.ModuleList)
    owner, _, attribute = group.name.rpartition(".")
    owner = result.get_submodule(owner)
    setattr(owner, attribute, nn.ModuleList(layers[i] for i in group.kept))
    for part in (owner, getattr(owner, "config", None)):
        for attribute in ("num_layers", "n_layers", "num_hidden_layers"):
            if hasattr(part, attribute):
                setattr(part, attribute, len(group.kept))
    return result


def _count_heads(module: nn.Module, group: Group) -> None:
    """Tell an attention module how many heads it has now."""
    anatomy = next(a for name, _, a in layers_of(module) if _below(name, a.attention) == group.name)
    attention = module.get_submodule(group.name)
    size = getattr(attention, anatomy.counts[0])
    for attribute in anatomy.widths:
        setattr(attention, attribute, getattr(attention, attribute) // size * len(group.kept))
    for attribute in anatomy.counts:
        setattr(attention, attribute, len(group.kept))


def _narrow(layer: nn.Linear, rows: Tensor | None, columns: Tensor | None) -> nn.Linear:
    """A Linear of some outputs and some inputs of another."""
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    if rows is not None:
        weight, bias = weight[rows], None if bias is None else bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight = nn.Parameter(weight.clone(), layer.weight.requires_grad)
    if bias is not None:
        made.bias = nn.Parameter(bias.clone(), layer.bias.requires_grad)
    return made.train(layer.training)


def _linear(module: nn.Module, name: str) -> nn.Linear:
    layer = module.get_submodule(name)
    if type(layer) is not nn.Linear:
        raise UnsupportedError(f"structured: {name} is a {type(layer).__name__}; prune before other passes change it")
    return layer


def _in_sequence(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Two Linear layers with nothing but elementwise functions between them, in a Sequential; names of both."""
    for name, part in module.named_modules():
        if not isinstance(part, nn.Sequential):
            continue
        before = ""
        for key, child in part.named_children():
            if type(child) is nn.Linear:
                if before:
                    yield before, _below(name, key)
                before = _below(name, key)
            elif not isinstance(child, _ELEMENTWISE):
                before = ""


def _below(name: str, path: str) -> str:
    return f"{name}.{path}" if name else path
