"""Two tokenizers that disagree are told, with the first text and the ids of both."""

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers

from edgepress.compress.probes import TEXTS
from edgepress.compress.tokenization import differences, read_tokenizer, text_encoder
from edgepress.runtime.artifact import Port
from edgepress.runtime.errors import DataError

from .tiny_encoders import tokenizer

PORTS = (Port("input_ids", "int64", ("batch", "sequence")), Port("attention_mask", "int32", ("batch", "sequence")))


def changed(normalizer: normalizers.Normalizer) -> Tokenizer:
    made = tokenizer(0)
    made.normalizer = normalizer
    return made


def test_tokenizers_that_agree_have_no_difference() -> None:
    same = {name: read_tokenizer(tokenizer(0).to_str().encode(), name) for name in ("source", "onnx", "tflite")}
    assert differences(same, ["w1 w2", *TEXTS.values()]) == []


def test_the_first_text_on_which_one_differs_is_told_with_both_ids() -> None:
    pair = {"source": tokenizer(0), "onnx": changed(normalizers.Replace("w2", "w3"))}
    (found,) = differences(pair, ["w1", "w1 w2", "w2 w4"])
    assert (found.a, found.b, found.text) == ("source", "onnx", "w1 w2")
    assert found.ids[0] != found.ids[1]
    two, three, end = (tokenizer(0).token_to_id(word) for word in ("w2", "w3", "[SEP]"))
    where = f"'w1 w2' at token 2: {two}, {end} and {three}, {end}"
    assert str(found) == f"the tokenizers of source and onnx differ on {found.count} of {found.texts} texts; {where}"


def test_a_tokenizer_that_cuts_says_where_it_ends() -> None:
    short = tokenizer(0)
    short.enable_truncation(3)
    (found,) = differences({"a": tokenizer(0), "b": short}, ["w1", "w1 w2 w3"])
    assert found.text == "w1 w2 w3"
    assert len(found.ids[1]) == 3


def test_words_of_the_whole_vocabulary_are_tried_whatever_the_texts_are() -> None:
    for word in ("w0", "w31", "w59"):
        pair = {"source": tokenizer(0), "onnx": changed(normalizers.Replace(word, "w7"))}
        (found,) = differences(pair, ["another text"])
        assert word in found.text.split()


def test_without_tokenizers_there_is_nothing_to_compare() -> None:
    assert differences({}, ["w1"]) == []


def test_a_text_becomes_the_arrays_of_the_ports_within_their_limits() -> None:
    encode = text_encoder(tokenizer(0), PORTS, {"sequence": 4})
    found = encode("w1 w2 w3 w4")
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
        "input_ids": ("int64", (1, 4)), "attention_mask": ("int32", (1, 4)),
    }  # fmt: skip
    assert np.array_equal(text_encoder(tokenizer(0), PORTS, {})("w1")["input_ids"], [tokenizer(0).encode("w1").ids])


def test_a_text_is_filled_up_to_a_fixed_length_and_a_longer_one_is_left_to_be_refused() -> None:
    fixed = [Port(port.name, port.dtype, (1, 6)) for port in PORTS]
    found = text_encoder(tokenizer(0), fixed, {})("w1 w2")
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0]]
    assert found["input_ids"].shape == (1, 6)
    assert text_encoder(tokenizer(0), fixed, {})("w1 w2 w3 w4 w5 w6")["input_ids"].shape == (1, 8)


def test_a_damaged_tokenizer_is_told() -> None:
    with pytest.raises(DataError, match=r"out/x is no tokenizer that can be read: .*; export the model again"):
        read_tokenizer(b"{", "out/x")
