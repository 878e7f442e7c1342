"""Recipe: passes in their order, read from TOML, by name or from a file of the user's."""

import importlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from ..runtime.errors import InputError, MissingExtra, UnknownName, UnsupportedError, UsageError
from ..runtime.machine import saturates

if TYPE_CHECKING:
    from ..devices.device import Device
    from ..export.model import Model
    from .data import Data

_PACKAGE = "edgepress.compress"

# Name in a recipe -> where its dataclass is; imported when a recipe is made, for most of them want torch.
PASSES: dict[str, tuple[str, str]] = {
    "static_int8": ("static", "StaticInt8"),
    "dynamic_int8": ("quantize", "DynamicInt8"),
    "packed_int8": ("packed", "PackedInt8"),
    "weight_only": ("quantize", "WeightOnly"),
    "ggml": ("ggml_types", "GgmlTypes"),
    "float16": ("float16", "Float16"),
    "qat": ("qat", "Qat"),
    "distill": ("distill", "Distill"),
    "finetune": ("distill", "FineTune"),
    "mixed": ("mixed", "Mixed"),
    "lowrank": ("lowrank", "LowRank"),
    "cluster": ("cluster", "Cluster"),
    "magnitude": ("prune", "MagnitudePrune"),
    "gradual": ("gradual", "GradualPrune"),
    "sparse": ("sparse", "Sparse"),
    "structured": ("structured", "StructuredPrune"),
}

# The passes that train: what one before them lost, they may bring back, so the two are judged together.
TRAINS = ("distill", "finetune", "gradual", "qat")

# Settings of a pass that are the device's to fill in where they are None.
_DEVICES_OWN = ("activation", "reduce_range")
# ... and those that are the format's: what its blocks of integers have.
_FORMATS_OWN = {"tflite": {"symmetric": True, "short_scales": True}, "gguf": {"short_scales": True, "divide": False}}


class Pass(Protocol):
    """A frozen dataclass: its fields are its settings, calling it does the work."""

    def __call__(self, model: "Model", data: "Data") -> "Model": ...


@dataclass(frozen=True)
class Recipe:
    """A name, what it is for, and its passes; itself a Pass."""

    name: str
    description: str
    passes: tuple[tuple[str, Pass], ...]

    def __call__(self, model: "Model", data: "Data") -> "Model":
        """All passes, one after the other, nothing measured; `compress` measures each."""
        for _, step in self.passes:
            model = step(model, data)
        return model

    def targeting(self, device: "Device", *to: str) -> "Recipe":
        """The recipe with every setting filled in that is left to the device or to the formats `to`.

        `activation` and `reduce_range` are the device's, `symmetric`, `short_scales` and `divide` the formats': one
        choice for all of them, so that each holds the same integers. Raises UnsupportedError where no choice suits all,
        or where the recipe has made one that does not; a single format is left to its exporter, which knows the layers.
        For an NPU, activations are calibrated: `static_int8` takes the place of `dynamic_int8`, in the types that the
        NPU takes, and UnsupportedError is raised for another pass that quantizes them as the model runs.
        """
        wishes = common_wishes(to, _FORMATS_OWN)
        own = {name: getattr(device, name) for name in _DEVICES_OWN}
        own |= {name: wish for name, (_, wish) in wishes.items()}
        passes = self.passes
        if device.npu is not None:
            del own["activation"]  # the processor's
            own["npu"] = device.npu.activations
            own["reduce_range"] |= saturates()  # this machine computes the score and the golden samples
            passes = _calibrated(passes, device.name, device.npu.weights)
        filled = tuple((name, _filled(step, own)) for name, step in passes)
        if len(to) > 1:
            for name, step in filled:
                _refuse_contradiction(name, step, wishes)
        return replace(self, passes=filled)


def common_wishes(to: Sequence[str], table: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, Any]]:
    """What several formats want of a setting, and which of them said so first.

    Raises UnsupportedError where two want different things.

    >>> common_wishes(("onnx", "tflite"), {"tflite": {"symmetric": True}})
    {'symmetric': ('tflite', True)}
    """
    found: dict[str, tuple[str, Any]] = {}
    for form in to:
        for name, wish in table.get(form, {}).items():
            first, wanted = found.setdefault(name, (form, wish))
            if wanted != wish:
                said = f"{first} has {name} = {_toml(wanted)} and {form} has {name} = {_toml(wish)}"
                raise UnsupportedError(f"{said}: no one model serves both; export to each alone")
    return found


def recipe_names() -> tuple[str, ...]:
    """The names of the recipes that ship with edgepress."""
    files = (resources.files(_PACKAGE) / "recipes").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def recipe_table(name: str) -> dict[str, Any]:
    """A recipe's TOML as it is written: by its name, or by the path of a `.toml` file.

    Raises UnknownName for a name that is not there, InputError for a file that is not TOML.
    """
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise UsageError(f"there is no recipe file {name}; known recipes: {', '.join(recipe_names())}")
        content = path.read_bytes()
    elif name in recipe_names():
        content = (resources.files(_PACKAGE) / "recipes" / f"{name}.toml").read_bytes()
    else:
        raise UnknownName("recipe", name, recipe_names())
    try:
        return tomllib.loads(content.decode())
    except ValueError as error:  # TOMLDecodeError or UnicodeDecodeError
        raise InputError(f"the recipe {name} is not TOML: {error}") from error


def find_recipe(name: str) -> Recipe:
    """The recipe of this name, or of this `.toml` file, with its passes made and their settings checked.

    >>> find_recipe("int8").passes[0]
    ('static_int8', StaticInt8(calibration='minmax', activation=None, reduce_range=None))
    """
    table = recipe_table(name)
    _refuse_unknown(f"recipe {name}", table, {"description", "pass"})
    tables = table.get("pass", [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"recipe {name} has no passes; expected one or more [[pass]] tables with a name")
    return Recipe(Path(name).stem, str(table.get("description", "")), tuple(_read_pass(name, t) for t in tables))


def _read_pass(recipe: str, table: Mapping[str, Any]) -> tuple[str, Pass]:
    name = str(table.get("name"))
    if name not in PASSES:
        raise UnknownName("pass", name, PASSES)
    module, attribute = PASSES[name]
    try:
        kind = getattr(importlib.import_module(f".{module}", __package__), attribute)
    except ImportError as error:
        raise MissingExtra(error.name or "torch", "compress") from error
    settings = {key: value for key, value in table.items() if key != "name"}
    return name, _settings(f"pass {name} in recipe {recipe}", name, settings, kind)


def _settings(where: str, name: str, table: Mapping[str, Any], kind: Any) -> Any:
    """A dataclass of settings from a TOML table; a field may be such a dataclass itself."""
    _refuse_unknown(where, table, {field.name for field in fields(kind)})
    hints = get_type_hints(kind)
    return kind(**{key: _fit(f"{name}.{key}", value, hints[key]) for key, value in table.items()})


def _refuse_unknown(where: str, table: Mapping[str, Any], known: set[str]) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{where} has the unknown setting {key!r}; known: {', '.join(sorted(known))}")


def _fit(where: str, value: Any, hint: Any) -> Any:
    """The TOML value as the field's type; raises UsageError where it is another type."""
    settings = next((kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)), None)
    if settings is not None and isinstance(value, dict):
        return _settings(where, where, value, settings)
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        if isinstance(value, list):
            return tuple(_fit(where, item, inner) for item in value)
    elif _accepts(value, hint):
        return float(value) if hint is float else value
    raise UsageError(f"{where} = {value!r}; expected {_expected(hint)}")


def _expected(hint: Any) -> str:
    """A field's type in the words of TOML, which has no None."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_expected(part) for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if is_dataclass(hint):
        return "a table of settings"
    return f"a list of {_expected(get_args(hint)[0])}" if get_origin(hint) is tuple else hint.__name__


def _accepts(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_accepts(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is NoneType:
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _calibrated(passes: Sequence[tuple[str, Any]], device: str, weights: Sequence[str]) -> tuple[tuple[str, Pass], ...]:
    """The passes for an NPU, each once: no activation is quantized as the model runs."""
    found: list[tuple[str, Any]] = []
    for name, step in map(_static_for_dynamic, passes):
        if _measures_as_it_runs(name, step):
            raise UnsupportedError(
                f"the recipe's {name} quantizes activations as the model runs, which the NPU of {device} does not do; "
                "use static_int8, as the recipe int8 does"
            )
        if (name == "static_int8" or (name == "qat" and step.static)) and "int8" not in weights:
            raise UnsupportedError(f"{name} stores weights as int8, the NPU of {device} takes {', '.join(weights)}")
        if (name, step) not in found:
            found.append((name, step))
    return tuple(found)


def _static_for_dynamic(named: tuple[str, Any]) -> tuple[str, Any]:
    name, step = named
    if name != "dynamic_int8":
        return named
    chosen = {key: list(getattr(step, key)) for key in ("include", "exclude")}
    return _read_pass("int8", {"name": "static_int8", **chosen})


def _measures_as_it_runs(name: str, step: Any) -> bool:
    """True where a pass, or one that it trains for, leaves scales of activations to the run."""
    if name == "mixed":
        return step.weight_only is None or bool(step.dynamic or step.packed)
    if name == "qat":
        return bool(step.dynamic or step.packed or (step.mixed and _measures_as_it_runs("mixed", step.mixed)))
    return name == "packed_int8"


def _refuse_contradiction(name: str, step: Any, wishes: Mapping[str, tuple[str, Any]]) -> None:
    """Raise UnsupportedError where a setting of the recipe's own is not what a format has."""
    for part in fields(step):
        value = getattr(step, part.name)
        if is_dataclass(value):
            _refuse_contradiction(f"{name}.{part.name}", value, wishes)
        elif part.name in wishes and value != wishes[part.name][1]:
            form, wish = wishes[part.name]
            raise UnsupportedError(
                f"the recipe says {name}.{part.name} = {_toml(value)}, {form} has {part.name} = {_toml(wish)}; "
                f"leave it out, or export without {form}"
            )


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _filled(step: Any, own: Mapping[str, Any]) -> Any:
    values = {f.name: getattr(step, f.name) for f in fields(step)}
    filled = {name: value for name, value in own.items() if name in values and values[name] in (None, ())}
    filled |= {name: _filled(value, own) for name, value in values.items() if is_dataclass(value)}
    return replace(step, **filled)
