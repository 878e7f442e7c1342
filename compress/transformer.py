"""The parts of a transformer that can be cut: neurons of its feed-forward layers, attention heads, whole layers.

    FFN(x) = W_out·σ(W_in·x + b_in) + b_out = Σ_j W_out[:, j]·σ(W_in[j]·x + b_in[j]) + b_out        (a term a neuron)
    GLU(x) = W_out·(σ(W_gate·x) ⊙ W_up·x) = Σ_j W_out[:, j]·σ(W_gate[j]·x)·(W_up[j]·x)               (a term a neuron)
    MHA(x) = Σ_h W_o[:, h]·softmax(q_h k_hᵀ/√d)·v_h + b_o                                            (a term a head)

Where several heads of queries share one of keys and values (Ainslie et al. 2023), the unit is such a group of heads.
Michel et al. 2019 (heads), McCarley et al. 2019 (neurons), Sajjad et al. 2020 (layers). Classes are known by name;
others are refused by name or left alone.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..runtime.errors import UnsupportedError
from .config_sizes import count_layers, count_sizes
from .groups import Group, inputs_left, outputs_left
from .layers import with_layers


@dataclass(frozen=True)
class Anatomy:
    """Where the parts of a layer are, as paths below it. No `attention`: its heads cannot be cut, and `why`.

    `inner` write the neurons: more than one where a gate has a layer of its own, and twice the rows where it has not.
    `projections` are those of queries, keys and values, or one of all three in a row. `counts` are the attributes of
    `attention` that hold the number of heads (of keys), `widths` those that hold heads·size. `width` is where the
    config counts neurons, for decoders: their layers are all alike, and the config says how (config_sizes.py).
    """

    inner: tuple[str, ...]
    outer: str
    attention: str = ""
    projections: tuple[str, ...] = ()
    output: str = ""
    counts: tuple[str, ...] = ("num_attention_heads",)
    widths: tuple[str, ...] = ("all_head_size",)
    width: str = ""
    why: str = ""


_BERT = Anatomy(
    ("intermediate.dense",), "output.dense", "attention.self",
    ("attention.self.query", "attention.self.key", "attention.self.value"), "attention.output.dense",
)  # fmt: skip
_LLAMA = Anatomy(
    ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "self_attn",
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj", (), (), "intermediate_size",
)  # fmt: skip

LAYERS: dict[str, Anatomy] = {
    **dict.fromkeys(("BertLayer", "CamembertLayer", "ElectraLayer", "RobertaLayer", "XLMRobertaLayer"), _BERT),
    "AlbertLayer": Anatomy(
        ("ffn",), "ffn_output", "attention", ("attention.query", "attention.key", "attention.value"), "attention.dense"
    ),
    "TransformerBlock": Anatomy(
        ("ffn.lin1",), "ffn.lin2", "attention", ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        "attention.out_lin", ("n_heads",), (),
    ),
    "MPNetLayer": Anatomy(
        ("intermediate.dense",), "output.dense", why="all layers share one table of position biases, a column a head"
    ),
    "TransformerEncoderLayer": Anatomy(
        ("linear1",), "linear2", why="torch's MultiheadAttention is as wide as its input, whatever its heads"
    ),
    **dict.fromkeys(
        ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer", "GemmaDecoderLayer",
         "Gemma2DecoderLayer", "Gemma3DecoderLayer"), _LLAMA,
    ),
    "Phi3DecoderLayer": Anatomy(
        ("mlp.gate_up_proj",), "mlp.down_proj", "self_attn", ("self_attn.qkv_proj",), "self_attn.o_proj",
        ("num_key_value_heads",), (), "intermediate_size",
    ),
    "GPT2Block": Anatomy(
        ("mlp.c_fc",), "mlp.c_proj", width="n_inner", why="all heads together are as wide as the states, by its config"
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
    pairs = [([_below(name, path) for path in a.inner], _below(name, a.outer)) for name, _, a in layers_of(module)]
    pairs += [([inner], outer) for inner, outer in _in_sequence(module)]
    groups = []
    for inner, outer in pairs:
        width = _linear(module, outer).in_features
        units = torch.arange(width)
        rows = {path: units.repeat(_linear(module, path).out_features // width) for path in inner}
        groups.append(Group(inner[0], "neurons", width, tuple(range(width)), rows, {outer: units}))
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
        number = _heads_of(layer, anatomy)
        sizes = {_below(name, path): _linear(module, _below(name, path)).out_features for path in anatomy.projections}
        output = _below(name, anatomy.output)
        width = _linear(module, output).in_features
        units = torch.arange(width) // (width // number)
        rows = {path: torch.arange(size) // (size // number) for path, size in sizes.items()}
        if len(rows) == 1:  # queries, then keys, then values, of which there may be fewer
            ((path, size),) = sizes.items()
            keys = torch.arange((size - width) // 2) // ((size - width) // 2 // number)
            rows = {path: torch.cat([units, keys, keys])}
        everything = tuple(range(number))
        groups.append(Group(_below(name, anatomy.attention), "heads", number, everything, rows, {output: units}))
    return groups


def _heads_of(layer: nn.Module, anatomy: Anatomy) -> int:
    """How many heads an attention has, or groups of them that share keys and values."""
    attention = layer.get_submodule(anatomy.attention)
    if not anatomy.width:
        return getattr(attention, anatomy.counts[0])
    width = layer.get_submodule(anatomy.output).in_features
    return width // (attention.head_dim * attention.num_key_value_groups)  # pyright: ignore


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
    """A copy whose Linear layers have only the rows and columns of the units that are kept.

    Raises UnsupportedError where the layers of a decoder would not be alike any more, for its config cannot say that.
    """
    names = {name for group in groups for name in (*group.rows, *group.columns)}
    narrow = {n: _narrow(_linear(module, n), outputs_left(n, groups), inputs_left(n, groups)) for n in names}
    result = with_layers(module, narrow)
    for group in groups:
        if group.kind == "heads":
            _count_heads(result, group)
    count_sizes(result, [(layer, anatomy) for _, layer, anatomy in layers_of(result) if anatomy.width])
    return result


def with_depth(module: nn.Module, group: Group) -> nn.Module:
    """A copy with the layers that are kept, in their order."""
    result = copy.deepcopy(module)
    layers = result.get_submodule(group.name)
    assert isinstance(layers, nn.ModuleList)
    owner, _, attribute = group.name.rpartition(".")
    owner = result.get_submodule(owner)
    setattr(owner, attribute, nn.ModuleList(layers[i] for i in group.kept))
    count_layers(owner, group.kept)
    return result


def _count_heads(module: nn.Module, group: Group) -> None:
    """Tell an attention module how many heads it has now."""
    anatomy = next(a for name, _, a in layers_of(module) if _below(name, a.attention) == group.name)
    attention = module.get_submodule(group.name)
    for attribute in anatomy.widths:
        setattr(attention, attribute, getattr(attention, attribute) // group.size * len(group.kept))
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
