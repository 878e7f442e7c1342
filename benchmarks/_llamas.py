"""What the benchmarks of GGUF share: llama.cpp's own converter, and Llamas of any shape with random weights.

No script here may be called gguf.py: its folder comes first on the path, where it would stand before the package gguf.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from _common import OUT, ROOT, import_script
from safetensors.torch import save_file

SAMPLE = ROOT / "samples" / "tinyllm" / "train.py"
# The converter knows byte pairs by a hash over what they make of a text. Ours are our own, so it is told their name.
OFFICIAL = """
import runpy, sys
source, pre, *arguments = sys.argv[1:]
sys.path[:0] = [source + "/gguf-py", source]
if pre:
    import conversion.base
    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
sys.argv = [source + "/convert_hf_to_gguf.py", *arguments]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# Ours: a folder as GGUF and, where a type is given, quantized; prints the peak memory after each.
OURS = """
import json, sys
from pathlib import Path
from edgepress.export.gguf_quantize import quantize
from edgepress.export.gguf_write import Pooled, write_gguf
from edgepress.export.shards import read_shards
from edgepress.runtime.machine import peak_memory
folder, floats, target, kind, pooling = sys.argv[1:]
write_gguf(read_shards(Path(folder)), Path(folder), Path(floats), pooled=Pooled(pooling, bool(pooling)))
converted = peak_memory()
if kind:
    quantize(Path(floats), Path(target), kind)
print(json.dumps([converted, peak_memory()]))
"""
NO_CONVERTER = "--llama-cpp names no folder with convert_hf_to_gguf.py: the official converter is left out."


@dataclass(frozen=True)
class Shape:
    """A Llama: `heads` of queries, `pairs` of keys and values."""

    layers: int
    hidden: int
    neurons: int
    heads: int
    pairs: int
    vocabulary: int = 32000

    @property
    def layer(self) -> dict[str, tuple[int, ...]]:
        wide, narrow, neurons = self.hidden, self.hidden // self.heads * self.pairs, self.neurons
        return {
            "self_attn.q_proj": (wide, wide), "self_attn.k_proj": (narrow, wide), "self_attn.v_proj": (narrow, wide),
            "self_attn.o_proj": (wide, wide), "mlp.gate_proj": (neurons, wide), "mlp.up_proj": (neurons, wide),
            "mlp.down_proj": (wide, neurons), "input_layernorm": (wide,), "post_attention_layernorm": (wide,),
        }  # fmt: skip

    @property
    def outer(self) -> dict[str, tuple[int, ...]]:
        table = (self.vocabulary, self.hidden)
        return {"model.embed_tokens.weight": table, "model.norm.weight": (self.hidden,), "lm_head.weight": table}

    @property
    def parameters(self) -> int:
        sizes = [torch.Size(shape).numel() for shape in self.layer.values()]
        return self.layers * sum(sizes) + sum(torch.Size(shape).numel() for shape in self.outer.values())


def write_llama(folder: Path, shape: Shape) -> None:
    """A Hugging Face folder in bfloat16, a shard a layer; all layers have the same random weights.

    Raises SystemExit where the disk has no room for it and a second copy.
    """
    folder.mkdir(parents=True, exist_ok=True)
    need_room(folder, 2 * 2 * shape.parameters)
    torch.manual_seed(0)
    layer = {name: _random(size) for name, size in shape.layer.items()}
    shards = [{f"model.layers.{i}.{name}.weight": each for name, each in layer.items()} for i in range(shape.layers)]
    shards.append({name: _random(size) for name, size in shape.outer.items()})
    held = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        held |= dict.fromkeys(shard, name)
    total = {"total_size": 2 * shape.parameters}
    _json(folder / "model.safetensors.index.json", {"metadata": total, "weight_map": held})
    _json(folder / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "dtype": "bfloat16",
        "hidden_size": shape.hidden, "intermediate_size": shape.neurons, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.pairs, "vocab_size": shape.vocabulary,
        "head_dim": shape.hidden // shape.heads, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
    })  # fmt: skip
    pages = import_tinyllm().library("[a-d]*.py")
    text = ["\n\n".join(page.paragraphs) for page in pages]
    import_tinyllm().train_tokenizer(text, 2048).save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    _json(folder / "tokenizer_config.json", about)


def need_room(folder: Path, count: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < 1.1 * count:
        raise SystemExit(f"{folder} has {free / 1e9:.0f} GB free, this wants {1.1 * count / 1e9:.0f}: name another "
                         "with --scratch")  # fmt: skip


def convert(source: Path, folder: Path, file: Path, kind: str, *, pre: str = "") -> None:
    """Have llama.cpp's own converter write `file`. Raises SystemExit with what it said where it fails."""
    run(OFFICIAL, source, pre, folder, "--outtype", kind.lower(), "--outfile", file)


def run(code: str, *arguments: object) -> str:
    """Run Python code in a process of its own; what it printed. Raises SystemExit with what it said where it fails."""
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments[0]}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def options(words: str) -> argparse.ArgumentParser:
    """The settings that these scripts share."""
    parser = argparse.ArgumentParser(description=words)
    parser.add_argument("--scratch", type=Path, default=OUT, help="where large files lie meanwhile (out/benchmarks)")
    return parser


def source_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--llama-cpp", type=Path, help="llama.cpp's source, with convert_hf_to_gguf.py")


def tinyllm_option(parser: argparse.ArgumentParser) -> None:
    words = "what samples/tinyllm/train.py made (out/tinyllm)"
    parser.add_argument("--tinyllm", type=Path, default=ROOT / "out" / "tinyllm", help=words)


def has_converter(source: Path | None) -> bool:
    return source is not None and (source / "convert_hf_to_gguf.py").is_file()


def has_model(tinyllm: Path) -> bool:
    return (tinyllm / "config.json").is_file()


def no_model(tinyllm: Path) -> str:
    return f"{tinyllm} is missing: python samples/tinyllm/train.py {tinyllm}"


def import_tinyllm() -> ModuleType:
    return import_script(SAMPLE, "tinyllm_sample")


def _random(shape: tuple[int, ...]) -> torch.Tensor:
    return (torch.randn(shape) * 0.02 + (len(shape) == 1)).to(torch.bfloat16)


def _json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
