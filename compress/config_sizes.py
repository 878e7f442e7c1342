"""The config of a transformers model stays true: what was cut is counted in it, for whoever reads the model reads it.

An encoder's layers may have sizes of their own, each where it is used. A decoder's are all alike, and the config has
one number for all of them: `num_hidden_layers`, `intermediate_size`, `num_attention_heads`, `num_key_value_heads`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from ..export.model import Model
from ..runtime.errors import UnsupportedError

if TYPE_CHECKING:
    from .transformer import Anatomy

# Where the number of layers is kept, and lists with an entry a layer.
_DEPTHS, _LISTS = ("num_layers", "n_layers", "num_hidden_layers"), ("layer_types",)


def count_layers(owner: nn.Module, kept: Sequence[int]) -> None:
    """Tell the module that owns a list of layers, and its config, that these are left, in place."""
    config = getattr(owner, "config", None)
    for attribute in _LISTS:
        if (listed := getattr(config, attribute, None)) is not None:
            setattr(config, attribute, [listed[i] for i in kept])
    for part in (owner, config):
        for attribute in _DEPTHS:
            if hasattr(part, attribute):
                setattr(part, attribute, len(kept))
    for layers in (part for part in owner.children() if isinstance(part, nn.ModuleList)):
        for i, layer in enumerate(layers):
            for part in layer.modules():
                if hasattr(part, "layer_idx"):  # where its keys and values lie in a cache
                    setattr(part, "layer_idx", i)  # noqa: B010 - to a type checker no module has such an attribute


def count_sizes(module: nn.Module, layers: Sequence[tuple[nn.Module, "Anatomy"]]) -> None:
    """Count neurons and heads of a decoder's layers in their config, in place.

    Raises UnsupportedError where two layers differ, or where transformers would not read such a config again.
    """
    if not layers:
        return
    config = _config(module)
    assert config is not None
    counts = [_counted(layer, anatomy) for layer, anatomy in layers]
    for name in counts[0]:
        found = sorted({count[name] for count in counts})
        if len(found) > 1:
            sizes = ", ".join(map(str, found))
            raise UnsupportedError(
                f"structured: layers would have {name} = {sizes}, and the model's config has one number for all of "
                'them; cut every layer alike, with sensitivity = "none" and no ratios'
            )
    for name, count in counts[0].items():
        setattr(config, name, count)
    for layer, anatomy in layers:
        if anatomy.attention:
            attention = layer.get_submodule(anatomy.attention)
            for name in anatomy.counts:
                setattr(attention, name, counts[0][name])
    try:
        type(config).from_dict(config.to_dict())
    except Exception as error:  # the library checks its configs with exceptions of many kinds
        reason = " ".join(str(error).split())
        found = f"the config would not be read again: {reason}"
        raise UnsupportedError(f"structured: {found}; cut another share") from error


def with_config(model: Model) -> Model:
    """The model with the config.json of its module, as it is now, among its assets; where it had one."""
    config = _config(model.module)
    if config is None or "config.json" not in model.assets:
        return model
    return replace(model, assets={**model.assets, "config.json": config.to_json_string().encode()})


def _counted(layer: nn.Module, anatomy: "Anatomy") -> dict[str, int]:
    """What a layer has, by the config's names."""
    outer: Any = layer.get_submodule(anatomy.outer)
    found = {anatomy.width: outer.in_features}
    if anatomy.attention:
        attention: Any = layer.get_submodule(anatomy.attention)
        output: Any = layer.get_submodule(anatomy.output)
        heads = output.in_features // attention.head_dim
        found |= {"num_attention_heads": heads, "num_key_value_heads": heads // attention.num_key_value_groups}
        found["head_dim"] = attention.head_dim
    return found


def _config(module: nn.Module) -> Any:
    """The config of the outermost part that has one: all parts of a transformers model share it."""
    parts: Iterable[nn.Module] = module.modules()
    return next((part.config for part in parts if hasattr(part, "config")), None)
