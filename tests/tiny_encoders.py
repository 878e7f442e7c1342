"""What the tests of Hugging Face folders share: small encoders of every kind, as their own tools save them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from edgepress.compress.encoder import read_encoder
from edgepress.compress.source import Task

WORDS = [f"w{i}" for i in range(60)]
LONGEST = 34  # positions in the table, some of them not for tokens


def write_encoder(folder: Path, kind: str = "bert", classes: int = 0, **settings: Any) -> Any:
    """Save an encoder with random weights and its tokenizer; returns transformers' own model, in evaluation mode.

    `classes` makes it a sequence classifier. 66 tokens, 2 layers, 16 wide.
    """
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "distilbert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    if kind in ("albert", "electra"):
        sizes["embedding_size"] = 8
    pad = 0 if kind in ("albert", "bert", "distilbert", "electra") else 1
    sizes |= {"vocab_size": len(WORDS) + 6, "max_position_embeddings": LONGEST, "pad_token_id": pad}
    config = AutoConfig.for_model(kind, **sizes | ({"num_labels": classes} if classes else {}) | settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (AutoModelForSequenceClassification if classes else AutoModel).from_config(config).eval()
        for weight in model.parameters():  # larger than fresh ones, so that attention is not all but even
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    tokenizer(pad).save(str(folder / "tokenizer.json"))
    return model


def tokenizer(pad: int) -> Tokenizer:
    """Words to ids, `[CLS] … [SEP]` around them, as the libraries' own fast tokenizers have it."""
    special = ["[PAD]", "[MASK]"] if pad == 0 else ["[MASK]", "[PAD]"]
    vocabulary = {word: i for i, word in enumerate([*special, "[CLS]", "[SEP]", "[UNK]", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return made


def texts(count: int, longest: int = 9) -> list[str]:
    """Up to 60 different texts of 2 to `longest` + 1 words."""
    return [" ".join(WORDS[(i + 7 * j * j) % 60] for j in range(2 + i % longest)) for i in range(count)]


def read_tiny(folder: Path, kind: str = "bert", lines: int = 40, **settings: Any) -> Task:
    """The task of a small encoder that is written below `folder`, with its lines of text."""
    write_encoder(folder / kind, kind, **settings)
    (folder / "texts.txt").write_text("\n".join(texts(lines)), encoding="utf-8")
    return read_encoder(folder / kind, folder / "texts.txt")
