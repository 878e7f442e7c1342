"""A small Llama on the prose of Python's standard library: a training script from top to bottom.

    python samples/tinyllm/train.py out/tinyllm                # 8 M parameters, ten minutes
    python samples/tinyllm/train.py out/tinyllm --minutes 60   # the longer, the better
    python samples/tinyllm/train.py out/tinyllm --small        # 1 M parameters, seconds, talks nonsense

Nothing is downloaded: docstrings, comments and the language reference that `help()` shows are on every machine that has
Python. The folder gets what Hugging Face's tools expect (config.json, model.safetensors, tokenizer.json, …) and
texts.txt: unseen text, a sample a line, to calibrate with and to judge by. A run that was killed goes on where it
stopped when the same command is given again.
"""

import argparse
import ast
import json
import math
import re
import shutil
import sysconfig
import time
import tokenize
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from edgepress.compress.data import Data, batches
from edgepress.compress.terminal import progress
from edgepress.compress.train import Training, train

WINDOW, BATCH = 256, 1  # tokens that the model sees at once; windows in a step: with few tokens, many small steps
BEGIN, END, CHAT_BEGIN, CHAT_END = SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
QUESTIONS = ("What does {} do?", "What is {} for?", "Explain {}.")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Llama 3's way to cut text into words, before byte pairs are merged inside each.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Size:
    """Rows of every matrix are multiples of 256 long: llama.cpp packs 256 weights into one block."""

    layers: int
    neurons: int
    vocabulary: int
    files: str  # which of the standard library's


FULL = Size(layers=7, neurons=1024, vocabulary=4096, files="**/*.py")
SMALL = Size(layers=2, neurons=256, vocabulary=512, files="[a-d]*.py")


@dataclass(frozen=True)
class Page:
    """What one module says, in paragraphs, and the first sentence about each of its functions and classes, by name."""

    name: str
    paragraphs: tuple[str, ...]
    answers: tuple[tuple[str, str], ...] = ()

    @property
    def unseen(self) -> bool:
        """One module in sixteen is not trained on; which, is a matter of its name."""
        return zlib.crc32(self.name.encode()) % 16 == 7


def library(files: str) -> list[Page]:
    """The standard library without its tests, and the language reference; nothing is said twice."""
    root, apart = Path(sysconfig.get_path("stdlib")), {"site-packages", "test", "tests", "idle_test"}
    paths = [path for path in sorted(root.glob(files)) if not apart & set(path.relative_to(root).parts)]
    pages = [page(".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"), p) for p in paths]
    pages += [Page(f"topics.{name}", tuple(paragraphs(text))) for name, text in sorted(topics.items())]
    first = {paragraph: each.name for each in reversed(pages) for paragraph in each.paragraphs}
    return [
        Page(each.name, tuple(p for p in dict.fromkeys(each.paragraphs) if first[p] == each.name), each.answers)
        for each in pages
    ]


def page(name: str, path: Path) -> Page:
    """A module's docstrings, each below the name of what it describes, then its longer comments."""
    with tokenize.open(path) as file:
        source = file.read()
    with warnings.catch_warnings(action="ignore"):  # old modules have old escapes
        described = dict(docstrings(ast.parse(source), name))
    text = [f"{name}\n\n{docstring}" for name, docstring in described.items()]
    text += [re.sub(r"(?m)^\s*# ?", "", block) for block in re.findall(r"(?m)(?:^[ \t]*# .*\n){2,}", source)]
    public = {name: " ".join(text.split("\n\n")[0].split()) for name, text in described.items() if "._" not in name}
    answers = [(name, re.split(r"(?<=[.!?]) (?=[A-Z])", text)[0]) for name, text in public.items()]
    whole = tuple(paragraph for part in text for paragraph in paragraphs(part))
    return Page(name, whole, tuple(pair for pair in answers if 15 < len(pair[1]) < 200))


def docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """`statistics.mean` and what its docstring says; classes with their methods."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if text := ast.get_docstring(node):
            yield name, text
        for child in node.body if isinstance(node, ast.Module | ast.ClassDef) else ():
            yield from docstrings(child, f"{name}.{getattr(child, 'name', '')}")


def paragraphs(text: str) -> Iterator[str]:
    """Prose comes on one line each; what is indented, as code is, stays as it is; rulers and tables of signs go."""
    for part in re.split(r"\n\s*\n", text.strip()):
        verbatim = re.search(r"(?m)^(  |>>>|\.\.\.)", part)
        if sum(character.isalnum() for character in part) > 0.4 * len(part):
            yield part.rstrip() if verbatim else " ".join(part.split())


def documents(pages: list[Page], chance: np.random.Generator) -> list[str]:
    """What is trained on: pages, and each answer once, in the form of a chat."""
    chats = [
        f"{CHAT_BEGIN}user\n{str(chance.choice(QUESTIONS)).format(name)}{CHAT_END}\n"
        f"{CHAT_BEGIN}assistant\n{answer}{CHAT_END}\n"
        for each in pages
        for name, answer in each.answers
    ]
    return ["\n\n".join(each.paragraphs) for each in pages] + chats


def train_tokenizer(text: list[str], size: int) -> Tokenizer:
    """Byte pairs as Llama 3 merges them: over bytes, so that there is no text that it cannot say."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    steps = [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])
    return tokenizer


def windows(tokenizer: Tokenizer, text: list[str]) -> np.ndarray:
    """All documents behind one another, `<s> … </s>`, cut into windows: int64 [n, 256]."""
    ids = [i for coding in tokenizer.encode_batch([each + END for each in text]) for i in coding.ids]
    return np.array(ids[: len(ids) // WINDOW * WINDOW]).reshape(-1, WINDOW)


def llama(size: Size) -> LlamaForCausalLM:
    """Four heads of 64, two of keys and values; the output layer is the embedding."""
    config = LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=256, intermediate_size=size.neurons,
        num_hidden_layers=size.layers, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
        max_position_embeddings=WINDOW, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=[1, 3], pad_token_id=1)
    return model


def loss(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """How surprising each next token is, in nats."""
    return model(input_ids=batch["ids"], labels=batch["ids"], use_cache=False).loss


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, held: np.ndarray) -> float:
    losses = [loss(model, {"ids": torch.from_numpy(batch["ids"])}) for batch in batches({"ids": held[:96]}, BATCH)]
    return float(torch.stack(losses).mean().exp())


def steps_in(minutes: float, model: LlamaForCausalLM, seen: np.ndarray) -> int:
    """How many steps there is time for, by the time that three of them take."""
    started = time.monotonic()
    for _ in range(3):
        loss(model, {"ids": torch.from_numpy(seen[:BATCH])}).backward()
    model.zero_grad()
    return max(1, int(minutes * 60 / ((time.monotonic() - started) / 3)))


def reply(model: LlamaForCausalLM, tokenizer: Tokenizer, question: str) -> str:
    """The likeliest answer, token by token."""
    prompt = tokenizer.encode(f"{CHAT_BEGIN}user\n{question}{CHAT_END}\n{CHAT_BEGIN}assistant\n").ids
    ids = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=48)  # pyright: ignore
    return tokenizer.decode(ids[0, len(prompt) :].tolist()).strip()


def make(folder: Path, size: Size, *, steps: int = 0, minutes: float = 10.0) -> tuple[float, float]:
    """Train for `steps`, or else for `minutes`, and write the folder; returns unseen perplexity before and after."""
    pages, chance = library(size.files), np.random.default_rng(0)
    text = documents([each for each in pages if not each.unseen], chance)
    learnt, unseen = "\n".join(text), [p for each in pages if each.unseen for p in each.paragraphs]
    unseen = [p for p in unseen if 80 < len(p) < 800 and "\n" not in p and p not in learnt]
    tokenizer = train_tokenizer(text, size.vocabulary)
    seen, held, model = windows(tokenizer, text), windows(tokenizer, unseen), llama(size)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{millions:.1f} M parameters, {seen.size:,} tokens to learn from, {len(unseen)} unseen texts")

    unfinished = folder / "training"
    unfinished.mkdir(parents=True, exist_ok=True)
    plan = unfinished / "steps"  # what the clock decides it decides once, and a run that goes on has the same plan
    if steps or not plan.exists():
        plan.write_text(str(steps or steps_in(minutes, model, seen)), encoding="utf-8")
    steps = int(plan.read_text(encoding="utf-8"))
    epochs = math.ceil(steps / math.ceil(len(seen) / BATCH))
    orders = [np.random.default_rng(epoch).permutation(len(seen)) for epoch in range(epochs)]
    before = perplexity(model, held)
    with progress() as tell:
        data = Data(training=lambda i: batches({"ids": seen[orders[i]]}, BATCH), checkpoints=unfinished, tell=tell)
        train(model, loss, data, Training(epochs, steps, rate=1e-3, warmup=0.05, weight_decay=0.1), who="tinyllm")
    after = perplexity(model, held)

    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": WINDOW, "chat_template": TEMPLATE}
    about |= {"bos_token": BEGIN, "eos_token": END, "pad_token": END, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
    (folder / "texts.txt").write_text("\n".join(unseen) + "\n", encoding="utf-8")
    shutil.rmtree(unfinished)
    print(f"perplexity of unseen text: {before:.0f} untrained, {after:.1f} trained")
    for question in ("What does statistics.mean do?", "What is json.dumps for?"):
        print(f"> {question}\n{reply(model, tokenizer, question)}")
    return before, after


def main(arguments: list[str] | None = None) -> None:
    """What the command line calls; ends with exit code 2 where the folder is somebody else's."""
    parser = argparse.ArgumentParser(description="Train a small Llama on the prose of Python's standard library.")
    parser.add_argument("folder", type=Path, help="the Hugging Face folder to write")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to train (default: 10)")
    parser.add_argument("--steps", type=int, default=0, help="how many steps to train, instead of minutes")
    parser.add_argument("--small", action="store_true", help="1 M parameters and 240 steps, to try things with")
    given = parser.parse_args(arguments)
    if given.folder.exists() and any(given.folder.iterdir()) and not (given.folder / "training").is_dir():
        parser.error(f"{given.folder} is not empty; name another folder, or remove it")
    size = SMALL if given.small else FULL
    make(given.folder, size, steps=given.steps or 240 * given.small, minutes=given.minutes)


if __name__ == "__main__":
    main()
