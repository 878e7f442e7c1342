"""The llama.cpp engine: logits and embeddings are those of transformers, and failures are told in our words."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepress.runtime import load
from edgepress.runtime.artifact import Port, describe, read_artifact, write_manifest
from edgepress.runtime.bench import bench
from edgepress.runtime.errors import ArtifactError, EngineError, PortError, UnknownName, UsageError
from edgepress.runtime.ggml import start
from edgepress.runtime.golden import Case, write_golden
from edgepress.runtime.language import LanguageModel

from .tiny_gguf import write_bert, write_llama

TEXTS = ["Hello there.", "The cat sat on the mat; it's über-nice: 你好!", "a", "Weights at 4 bits. " * 12]


@pytest.fixture(scope="module")
def decoder(llama) -> LanguageModel:
    return load(llama[0], threads=1)


@pytest.fixture(scope="module")
def encoder(minilm_gguf: Path) -> LanguageModel:
    return load(minilm_gguf, threads=1)


def ids(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 512, shape)


def test_a_decoder_has_the_logits_of_its_source(decoder: LanguageModel, llama):
    assert decoder.inputs == (Port("input_ids", "int64", ("batch", "sequence")),)
    assert decoder.outputs == (Port("logits", "float32", ("batch", "sequence", 512)),)
    for shape in ((1, 1), (3, 40), (2, 200)):
        tokens = ids(*shape)
        with torch.no_grad():
            expected = llama[1](torch.from_numpy(tokens)).logits.numpy()
        logits = decoder(input_ids=tokens)["logits"]
        assert (logits.dtype, logits.shape) == (np.float32, expected.shape)
        assert np.abs(logits - expected).max() < 1e-4
        assert (logits.argmax(-1) == expected.argmax(-1)).all()


def test_an_encoder_has_the_embeddings_of_its_source(encoder: LanguageModel, minilm: Path):
    from transformers import AutoModel, AutoTokenizer

    assert [str(port) for port in (*encoder.inputs, *encoder.outputs)] == [
        "input_ids int64[batch, sequence]",
        "attention_mask int64[batch, sequence]",
        "sentence_embedding float32[batch, 384]",
    ]
    tokens = AutoTokenizer.from_pretrained(minilm)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(minilm).eval()(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()
    inputs = {name: tokens[name].numpy() for name in ("input_ids", "attention_mask")}
    found = encoder(**inputs)["sentence_embedding"]
    assert (found * expected).sum(1).min() > 0.99999
    assert np.array_equal(encoder.embed(TEXTS), found)


def test_a_row_does_not_depend_on_the_others(decoder: LanguageModel, encoder: LanguageModel):
    tokens = ids(4, 30)
    together = decoder(input_ids=tokens)["logits"]
    for row in range(4):
        assert np.array_equal(decoder(input_ids=tokens[row : row + 1])["logits"][0], together[row])
    assert np.array_equal(encoder.embed(TEXTS)[2], encoder.embed([TEXTS[2]])[0])


def test_masked_tokens_are_dropped(encoder: LanguageModel):
    tokens = np.array([[101, 7592, 2045, 102]])
    padded = np.array([[101, 7592, 2045, 102, 0, 77]])
    alone = encoder(input_ids=tokens, attention_mask=np.ones_like(tokens))["sentence_embedding"]
    mask = np.array([[1, 1, 1, 1, 0, 0]])
    assert np.array_equal(encoder(input_ids=padded, attention_mask=mask)["sentence_embedding"], alone)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
def test_calls_without_tokens_have_outputs_without_numbers(decoder: LanguageModel, shape: tuple[int, int]):
    assert decoder(input_ids=np.zeros(shape, np.int64))["logits"].shape == (*shape, 512)


def test_an_encoder_wants_a_token_in_each_row(encoder: LanguageModel):
    empty = np.zeros((0, 3), np.int64)
    assert encoder(input_ids=empty, attention_mask=empty)["sentence_embedding"].shape == (0, 384)
    with pytest.raises(PortError, match="row 1 has no token that attention_mask leaves"):
        encoder(input_ids=np.ones((2, 3), np.int64), attention_mask=np.array([[1, 0, 0], [0, 0, 0]]))
    with pytest.raises(PortError, match=r"input_ids is \[1, 3\], attention_mask \[1, 2\]; expected the same shape"):
        encoder(input_ids=np.ones((1, 3), np.int64), attention_mask=np.ones((1, 2), np.int64))


@pytest.mark.parametrize("token", [-1, 512, 2**40])
def test_a_token_that_is_none_is_refused(decoder: LanguageModel, token: int):
    with pytest.raises(PortError, match=r"input_ids holds .* to .*; expected 0 to 511"):
        decoder(input_ids=np.array([[0, token]]))


def test_an_input_that_is_too_long_says_how_long_it_may_be(decoder: LanguageModel, encoder: LanguageModel):
    with pytest.raises(PortError, match=r"the input has sequence 257; .*tiny\.gguf takes up to 256: cut it"):
        decoder(input_ids=ids(1, 257))
    assert decoder(input_ids=ids(1, 256))["logits"].shape == (1, 256, 512)
    long = np.ones((1, 513), np.int64)
    with pytest.raises(PortError, match=r"takes up to 512"):
        encoder(input_ids=long, attention_mask=long)


def test_threads_that_share_a_model_get_what_each_asked_for(decoder: LanguageModel, encoder: LanguageModel):
    inputs = [ids(1, 5 + i % 30, seed=i) for i in range(40)]
    expected = [decoder(input_ids=x)["logits"] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: decoder(input_ids=x)["logits"], inputs))
        vectors = list(pool.map(lambda text: encoder.embed([text])[0], TEXTS * 3))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert np.array_equal(vectors[:4], vectors[4:8])


def test_an_embedding_is_divided_by_its_length_where_the_file_says_so(minilm: Path, tmp_path: Path):
    from safetensors.numpy import load_file

    weights = load_file(minilm / "model.safetensors")
    plain = load(write_bert(tmp_path / "plain.gguf", minilm, weights, edgepress__normalize=False), threads=1)
    unit = load(write_bert(tmp_path / "unit.gguf", minilm, weights, edgepress__normalize=True), threads=1)
    a, b = plain.embed(TEXTS), unit.embed(TEXTS)
    lengths = np.linalg.norm(a, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 0.1
    assert np.allclose(a / lengths, b, atol=1e-6)


@pytest.mark.parametrize(("pooling", "said"), [(None, "pooling_type 0"), (0, "pooling_type 0"), (4, "pooling_type 4")])
def test_an_encoder_that_does_not_pool_is_refused(minilm: Path, tmp_path: Path, pooling: int | None, said: str):
    from safetensors.numpy import load_file

    weights = load_file(minilm / "model.safetensors")
    path = write_bert(tmp_path / "m.gguf", minilm, weights, bert__pooling_type=pooling)
    with pytest.raises(EngineError, match=rf"has bert\.{said}; expected 1 \(mean\), 2 \(cls\) or 3 \(last\)"):
        load(path, verify=False)


def test_settings_that_cannot_be_right_are_refused(llama, linear: Path):
    path = llama[0]
    for threads in (0, -1):
        with pytest.raises(UsageError, match=f"threads is {threads}"):
            start(path, threads=threads)
    with pytest.raises(UnknownName, match="unknown execution provider 'cuda'; known: cpu"):
        start(path, providers=["cuda"])
    assert start(path, providers="CPU", threads=1).providers == ("cpu",)
    with pytest.raises(UnknownName, match="unknown cache 'q2_k'; known: f16, f32, q4_0, q8_0"):
        load(path, cache="q2_k", verify=False)
    for context in (0, 257):
        with pytest.raises(UsageError, match=rf"context is {context}; .* was trained for 1 to 256 tokens"):
            load(path, context=context, verify=False)
    with pytest.raises(UsageError, match="in the format onnx, which does not know context and cache; leave it out"):
        load(linear, context=5, cache="f16")


def test_one_part_of_several_is_refused(llama, tmp_path: Path):
    path = write_llama(tmp_path / "m.gguf", llama[0].parent / "source", {}, split__count=3)
    with pytest.raises(EngineError, match=r"is one of 3 parts; merge them into one file"):
        load(path, verify=False)


def test_an_artifact_replays_its_golden_samples_and_is_timed(decoder: LanguageModel, llama, tmp_path: Path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    model = folder / "model.gguf"
    model.write_bytes(llama[0].read_bytes())
    inputs = {"input_ids": ids(2, 9)}
    write_golden(folder / "golden.npz", [Case(inputs, decoder(**inputs))])
    bare = read_artifact(llama[0])
    files = (describe(model), describe(folder / "golden.npz", "golden"))
    ports = {"inputs": decoder.inputs, "outputs": decoder.outputs}
    write_manifest(replace(bare, path=folder, files=files, bare=False, tolerance=1e-5, **ports))
    check = load(folder, threads=1).selftest()
    assert check.passed
    assert check.difference == 0
    (timing,) = bench([folder], runs=3, threads=1)
    assert timing.shapes == {"input_ids": (2, 9)}
    assert timing.batch == 2


def test_a_file_that_does_not_fit_its_own_header_is_one_line(llama, tmp_path: Path):
    source = llama[0].parent / "source"
    weights = {name: weight.numpy() for name, weight in llama[1].state_dict().items()}
    with pytest.raises(EngineError, match="wrong shape"):
        start(write_llama(tmp_path / "a.gguf", source, weights, llama__feed_forward_length=64))
    with pytest.raises(ArtifactError, match=r"eos_token_id is 600, expected 0 to 511"):
        start(write_llama(tmp_path / "b.gguf", source, weights, tokenizer__ggml__eos_token_id=600))
    del weights["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(EngineError, match=r"tensor 'blk\.1\.ffn_up\.weight' not found"):
        start(write_llama(tmp_path / "c.gguf", source, weights))
