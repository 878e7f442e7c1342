"""Sampling: the likeliest token, draws with the right shares, and grammars that are kept."""

import json

import numpy as np
import pytest

from edgepress.runtime.errors import EngineError, UsageError
from edgepress.runtime.llama import Model
from edgepress.runtime.sampling import Sampler, Sampling, as_grammar


@pytest.fixture(scope="module")
def model(llama) -> Model:
    return Model(llama[0])


def drawn(model: Model, logits: np.ndarray, count: int = 4000, **settings) -> np.ndarray:
    sampler = Sampler(model, Sampling(**settings))
    return np.bincount([sampler.next(logits) for _ in range(count)], minlength=len(logits)) / count


LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))


def test_temperature_0_takes_the_likeliest(model: Model):
    logits = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    assert Sampler(model, Sampling()).next(logits) == logits.argmax()


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ({}, [0.5, 0.25, 0.15, 0.1]),
        ({"temperature": 0.5}, [0.725, 0.181, 0.065, 0.029]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.7}, [2 / 3, 1 / 3, 0, 0]),
        ({"min_p": 0.3}, [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0]),
    ],
)
def test_tokens_are_drawn_with_their_shares(model: Model, settings: dict, shares: list[float]):
    assert np.abs(drawn(model, LOGITS, **{"temperature": 1.0, **settings}) - shares).max() < 0.03


def test_a_seed_draws_the_same_again(model: Model):
    samplers = [Sampler(model, Sampling(1.0, seed=seed)) for seed in (1, 1, 2)]
    first, again, other = ([sampler.next(LOGITS) for _ in range(30)] for sampler in samplers)
    assert first == again != other


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; expected 0"),
        ({"temperature": float("nan")}, "temperature is nan; expected 0"),
        ({"top_k": -1}, "top_k is -1; expected 0"),
        ({"top_p": 0.0}, "top_p is 0.0; expected more than 0"),
        ({"min_p": 1.5}, "min_p is 1.5; expected 0"),
        ({"seed": -1}, "seed is -1; expected 0 to 4294967294"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings: dict, said: str):
    with pytest.raises(UsageError, match=said):
        Sampling(**settings)


def test_a_grammar_lets_through_what_it_allows(model: Model):
    sampler = Sampler(model, Sampling(), 'root ::= "yes" | "no"')
    text = b""
    for _ in range(5):
        token = sampler.next(np.random.default_rng(len(text)).standard_normal(512).astype(np.float32))
        if model.ends(token):
            break
        text += model.piece(token)
    assert text in (b"yes", b"no")


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ("", "the grammar is empty"),
        ("root ::= " + "(" * 9999, "nests deeper than 500"),
        ('root ::= "a\0"', "has a zero byte"),
        ("root ::= [a", "the grammar cannot be read: unexpected end of input"),
        ("hello", "the grammar cannot be read: "),
        ('other ::= "a"', "the grammar cannot be read: grammar does not contain a 'root' symbol"),
        ('root ::= root "a"', "left recursion"),
        ("root ::= other", "Undefined rule"),
    ],
)
def test_a_grammar_that_is_none_is_one_line(model: Model, grammar: str, said: str, capfd: pytest.CaptureFixture):
    with pytest.raises(UsageError, match=said) as error:
        Sampler(model, Sampling(), grammar)
    assert "\n" not in str(error.value)
    assert "".join(capfd.readouterr()) == ""


def test_a_grammar_that_the_vocabulary_cannot_write_is_an_error(model: Model):
    sampler = Sampler(model, Sampling(), 'root ::= "a" "\\x00"')  # a character that no token may have
    assert model.piece(sampler.next(np.zeros(512, np.float32))) == b"a"
    with pytest.raises(EngineError, match="has no token with which the grammar could go on"):
        sampler.next(np.zeros(512, np.float32))


def test_a_schema_becomes_a_grammar(model: Model):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    grammar = as_grammar(None, schema)
    assert grammar is not None
    Sampler(model, Sampling(), grammar)
    assert as_grammar("root ::= [a]", None) == "root ::= [a]"
    assert as_grammar(None, None) is None


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "https://example.com/schema.json"}, "refers to another one by .ref over the network"),
        ({"type": "nonsense"}, "the schema cannot be made a grammar"),
        ({"$ref": "#/absent"}, "the schema cannot be made a grammar"),
        ({"type": {"a": object()}}, "the schema cannot be made a grammar"),
        ([1], "the schema is a list; expected a JSON schema"),
    ],
)
def test_a_schema_that_is_none_is_one_line(schema, said: str):
    with pytest.raises(UsageError, match=said) as error:
        as_grammar(None, schema)
    assert "\n" not in str(error.value)


def test_a_grammar_and_a_schema_are_one_too_many():
    with pytest.raises(UsageError, match="grammar and schema are both given"):
        as_grammar("root ::= [a]", json.loads("{}"))
