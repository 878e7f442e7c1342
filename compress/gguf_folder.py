"""A Hugging Face folder on the way to GGUF: what each tensor would become, and the file itself."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from ..export.gguf import export_folder
from ..export.gguf_architectures import find_architecture
from ..export.gguf_quantize import Planned, file_type, plan
from ..export.gguf_write import FLOATS, Pooled, write_gguf
from ..export.model import Ggml
from ..export.shards import Shards, read_shards
from ..runtime.artifact import Artifact
from ..runtime.errors import ModelError, UsageError
from .ggml_types import note, refuse_substitutes

Tell = Callable[[str], None]


def convert(
    folder: Path, out: Path, kind: str, texts: Path | None, *, strict: bool = False, force: bool = False, tell: Tell
) -> tuple[Artifact, str]:
    """The folder as the artifact `out`, and in words what the tensors became; "" for floats.

    `kind` is a type of llama.cpp's, or empty. With `texts`, errors count by the inputs that these texts send through:
    that wants the whole model in memory, once. `strict` refuses, before anything is written, types that a tensor's
    shape forces. Raises UsageError for texts that no type asks for, and what `export_folder` and `read_source` raise.

    >>> convert(Path("smollm"), Path("out/smollm"), "Q4_K_M", None, tell=print)[1]
    'Q4_K_M: 180 tensors Q4_K, 61 F32, 31 Q6_K; 105.46 MB'
    """
    if kind:
        file_type(kind)
    shards = read_shards(folder)
    find_architecture(shards.config)
    quantized = kind not in ("", *FLOATS)
    if texts is not None and not quantized:
        raise UsageError(
            "--data says which inputs matter to a quantized type; name one, as --type Q4_K_M, or leave it out"
        )
    if strict and quantized:
        refuse_substitutes(plan_folder(shards, kind, importance=texts is not None))
    importance = {}
    if texts is not None and quantized:
        from .imatrix import importance_matrix
        from .source import read_source

        task = read_source(str(folder), texts)
        tell("which inputs matter")
        importance = importance_matrix(task.model, task.data.calibration)
    ggml = Ggml(kind, importance=importance)
    artifact, planned = export_folder(shards, out, ggml=ggml, pooled=_pooled(shards), force=force, tell=tell)
    return artifact, note(kind, planned) if planned else ""


def plan_model(model: Path, kind: str) -> list[Planned]:
    """What each tensor of a Hugging Face folder or of a float GGUF file would become in the type `kind`.

    Raises ModelError for anything else, and what `plan` raises.
    """
    file_type(kind)
    if model.is_dir():
        return plan_folder(read_shards(model), kind)
    if model.suffix == ".gguf" and model.is_file():
        return plan(model, kind)
    raise ModelError(f"{model} cannot be planned for; expected a Hugging Face folder, or a .gguf file of floats")


def plan_folder(shards: Shards, kind: str, *, importance: bool = False) -> list[Planned]:
    """What each tensor of the folder would become; no weight is read."""
    with tempfile.TemporaryDirectory() as beside:
        path = Path(beside) / "hollow.gguf"
        write_gguf(shards, shards.folder, path, pooled=_pooled(shards), hollow=True)
        return plan(path, kind, importance=importance)


def _pooled(shards: Shards) -> Pooled:
    if shards.config["model_type"] != "bert":
        return Pooled()
    from .hugging_face import read_head

    return Pooled(*read_head(shards.folder))
