"""llama.cpp's own types for the weights of a GGUF file: one for all, or each tensor's by what it costs.

The pass decides; the exporter has llama.cpp do it, on the file that it wrote. Other formats refuse such a model.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..export.gguf import hollow
from ..export.gguf_quantize import Planned, file_type, plan
from ..export.model import Ggml, Model
from ..runtime.artifact import Step
from ..runtime.errors import UnsupportedError, UsageError
from .data import Data
from .ggml_mix import mixed_types
from .imatrix import importance_matrix


@dataclass(frozen=True)
class GgmlTypes:
    """`type` is llama.cpp's (`Q4_K_M`, `IQ3_XS`, …); `importance` weighs errors by what calibration data sends through.

    `megabytes` chooses a type for each tensor, so that the file takes no more and the outputs move least (ggml_mix.py);
    `type` is then only what the file calls itself. `strict` refuses types that a tensor's shape forces upon llama.cpp.

    >>> GgmlTypes("Q4_K_M")(model, data).history[-1].note
    'Q4_K_M: 48 tensors Q4_K, 9 Q6_K, 17 F32; 5.12 MB'
    """

    type: str = "Q4_K_M"
    importance: bool = True
    megabytes: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        file_type(self.type)
        if self.megabytes is not None and not self.megabytes > 0:
            raise UsageError(f"ggml: megabytes = {self.megabytes}; expected a number above 0")

    def __call__(self, model: Model, data: Data) -> Model:
        """Raises UnsupportedError for a model that GGUF cannot say, and for a substitution where `strict` is set.

        Raises DataError where `importance` or `megabytes` finds no data, UsageError where not even the smallest types
        fit into `megabytes`.
        """
        data.tell("ggml: which inputs matter")
        matrix = importance_matrix(model, data.calibration) if self.importance else {}
        types: Mapping[str, str] = {}
        if self.megabytes is not None:
            types = mixed_types(model, data, matrix, self.megabytes)
        ggml = Ggml(self.type, types, matrix)
        planned = planned_types(model, ggml)
        if self.strict:
            refuse_substitutes(planned)
        step = Step("ggml", asdict(self), note(self.type, planned))
        return replace(model.then(model.module, step, swapped=()), ggml=ggml)


def planned_types(model: Model, ggml: Ggml) -> list[Planned]:
    """What each tensor will become."""
    with tempfile.TemporaryDirectory() as beside:
        path = hollow(model, Path(beside))
        return plan(path, ggml.type, types=ggml.types, importance=bool(ggml.importance))


def refuse_substitutes(planned: list[Planned]) -> None:
    """Raise UnsupportedError where a tensor's shape forces another type than was asked for."""
    if forced := [one for one in planned if one.substituted]:
        first = forced[0]
        raise UnsupportedError(
            f"{len(forced)} tensors cannot be {first.wanted}, as {first.name}, whose rows of {first.shape[-1]} its "
            f"blocks do not divide: it would become {first.type}; choose {first.better or first.type}, or do without "
            "strict"
        )


def note(kind: str, planned: list[Planned]) -> str:
    """What the tensors become, in words, with what their shapes force."""
    counts = Counter(one.type for one in planned).most_common()
    words = ", ".join(f"{count} {'tensors ' if not i else ''}{name}" for i, (name, count) in enumerate(counts))
    forced = Counter((one.wanted, one.type) for one in planned if one.substituted)
    told = "".join(f"; {count} {got} in the place of {wanted}, for their rows' length" for (wanted, got), count in
                   forced.items())  # fmt: skip
    return f"{kind}: {words}; {sum(one.bytes for one in planned) / 1e6:.2f} MB{told}"
