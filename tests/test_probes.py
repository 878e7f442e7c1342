"""The inputs that files are held against each other on: golden ones once, and what users send all the same."""

from pathlib import Path

import numpy as np

from edgepress.compress.probes import TEXTS, fingerprint, fits, golden_samples, unnatural_samples
from edgepress.export.parity import Sample
from edgepress.runtime import read_artifact
from edgepress.runtime.artifact import Port

IMAGE = (Port("image", "float32", ("batch", 1, 4, 4)),)
TEXT = (Port("input_ids", "int64", ("batch", "sequence")), Port("attention_mask", "int64", ("batch", "sequence")))


def image(seed: int, count: int = 1) -> Sample:
    return Sample("data", {"image": np.random.default_rng(seed).standard_normal((count, 1, 4, 4)).astype(np.float32)})


def by_kind(samples) -> dict[str, Sample]:
    return {sample.kind: sample for sample in samples}


def test_golden_samples_of_several_artifacts_come_once_each(artifact: Path) -> None:
    found = golden_samples([read_artifact(artifact), read_artifact(artifact)])
    assert [sample.inputs["x"].shape for sample in found] == [(1, 3), (2, 3)]
    assert all(sample.natural for sample in found)


def test_floats_are_tried_at_zero_and_at_the_ends_of_what_was_seen() -> None:
    natural = [image(0), image(1)]
    found = by_kind(unnatural_samples(IMAGE, natural, {}, None))
    assert not found["zeros"].inputs["image"].any()
    ends = np.unique(found["extremes"].inputs["image"])
    every = np.concatenate([sample.inputs["image"] for sample in natural])
    assert ends.tolist() == [every.min(), every.max()]
    assert not any(sample.natural for sample in found.values())


def test_batches_of_one_and_of_several_are_tried() -> None:
    found = by_kind(unnatural_samples(IMAGE, [image(0, 3)], {}, None))
    assert len(found["batch of 1"].inputs["image"]) == 1
    assert len(found["batch of 5"].inputs["image"]) == 5


def test_the_shortest_and_the_longest_sequence_that_all_files_take_are_tried() -> None:
    ids = np.arange(10, 17)[None]
    natural = [Sample("data", {"input_ids": ids, "attention_mask": np.ones_like(ids)})]
    found = by_kind(unnatural_samples(TEXT, natural, {"sequence": 16}, None))
    assert found["shortest sequence"].inputs["input_ids"].tolist() == [[10, 11]]
    longest = found["longest sequence"].inputs
    assert longest["input_ids"].shape == longest["attention_mask"].shape == (1, 16)
    assert longest["input_ids"][0, :8].tolist() == [*range(10, 17), 10]
    assert "longest sequence" not in by_kind(unnatural_samples(TEXT, natural, {}, None))


def test_each_text_is_encoded_where_there_is_a_tokenizer() -> None:
    ids = np.ones((1, 4), np.int64)
    natural = [Sample("data", {"input_ids": ids, "attention_mask": ids})]

    def encode(text: str) -> dict[str, np.ndarray]:
        size = max(1, len(text))
        return {"input_ids": np.full((1, size), 7), "attention_mask": np.ones((1, size), np.int64)}

    found = by_kind(unnatural_samples(TEXT, natural, {}, encode))
    assert TEXTS.keys() <= found.keys()
    assert "" in TEXTS.values()
    assert any(not text.isascii() for text in TEXTS.values())


def test_what_is_longer_than_a_file_takes_does_not_fit() -> None:
    ids = np.ones((9, 8), np.int64)
    inputs = {"input_ids": ids, "attention_mask": ids}
    assert fits(TEXT, inputs, {"sequence": 8})
    assert not fits(TEXT, inputs, {"sequence": 7})


def test_a_fingerprint_tells_names_types_shapes_and_values() -> None:
    a = np.zeros((2, 3), np.float32)
    others = [{"y": a}, {"x": a.astype(np.float64)}, {"x": a.reshape(3, 2)}, {"x": a + 1}]
    assert len({fingerprint(inputs) for inputs in ({"x": a}, *others)}) == 5
    assert fingerprint({"x": a}) == fingerprint({"x": a.copy()})
