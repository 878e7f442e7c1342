"""A language model on the command line: continuations that stream, and a conversation in a real terminal."""

import json
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgepress.runtime.language import load_language

from .commands import EDGEPRESS, edgepress
from .tiny_gguf import write_llama

PROMPT = "The function returns a list of"


def test_a_continuation_is_printed(llama):
    expected = "".join(load_language(llama[0], verify=False).generate(PROMPT, max_tokens=12))
    said = edgepress("run", llama[0], "--prompt", PROMPT, "--max-tokens", 12)
    assert (said.code, said.out, said.err) == (0, f"{expected}\n", "")


def test_the_settings_are_handed_on(llama, tmp_path: Path):
    (tmp_path / "schema.json").write_text('{"type": "integer"}', encoding="utf-8")
    settings = (
        "--max-tokens",
        20,
        "--temperature",
        1.5,
        "--seed",
        3,
        "--context",
        64,
        "--cache",
        "f32",
        "--threads",
        1,
    )
    said = edgepress("run", llama[0], "--prompt", PROMPT, *settings, "--json-schema", tmp_path / "schema.json")
    model = load_language(llama[0], context=64, cache="f32", verify=False)
    text = model.generate(PROMPT, max_tokens=20, temperature=1.5, seed=3, schema={"type": "integer"})
    assert said.out == "".join(text) + "\n"
    assert isinstance(json.loads(said.out), int)


def test_an_encoder_embeds_a_text_with_its_own_tokenizer(minilm_gguf: Path):
    found = edgepress("run", minilm_gguf, "--text", "Hello there.", "--json").json["sentence_embedding"]
    expected = load_language(minilm_gguf, verify=False).embed(["Hello there."])
    assert found["shape"] == [1, 384]
    assert found["values"] == expected.tolist()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--text", "x"), "tells of no pooling, so it gives no embeddings"),
        (("--prompt", "x", "--golden"), "--prompt writes text, and does not go with --input, --text, --golden"),
        (("--seed", "1", "--text", "x"), "--seed writes text, and does not go with"),
        (("--prompt", "x", "--max-tokens", "600"), "has 2 tokens and max_tokens is 600; the context of 256 leaves 254"),
        (("--prompt", "x", "--json-schema", "absent.json"), "--json-schema absent.json cannot be read (No such file"),
        (("--prompt", "x", "--json-schema", "{folder}/no.json"), "no.json is no JSON: "),
        (("--prompt", "x", "--json-schema", "{folder}/list.json"), "holds a list; expected a JSON schema: an object"),
        ((), "there is no terminal to chat in; give --prompt TEXT"),
    ],
)
def test_what_cannot_be_is_one_line(llama, tmp_path: Path, monkeypatch, arguments: tuple[str, ...], complaint: str):
    (tmp_path / "no.json").write_text("{", encoding="utf-8")
    (tmp_path / "list.json").write_text("[]", encoding="utf-8")
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        said = edgepress("run", llama[0], *(argument.format(folder=tmp_path) for argument in arguments))
    assert said.code == 2
    assert complaint in said.complaint


def test_text_is_asked_of_language_models_only(linear: Path, minilm_gguf: Path):
    for path, gives in ((linear, "y float32"), (minilm_gguf, "sentence_embedding float32")):
        said = edgepress("run", path, "--prompt", "x")
        assert said.code == 2
        assert f"--prompt is for models that write text; {path} gives {gives}" in said.complaint
    assert "does not know context; leave it out" in edgepress("run", linear, "--context", 5, "--golden").complaint


class Terminal:
    """A command with a terminal of its own."""

    def __init__(self, *arguments: object) -> None:
        self.here, there = pty.openpty()
        # setsid makes the terminal the command's own; Python's way to would run code between fork and exec
        command = ["setsid", "--ctty", EDGEPRESS, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=there, stdout=there, stderr=there)
        os.close(there)
        self.said = ""

    def type(self, text: str) -> None:
        os.write(self.here, text.encode())

    def wait_for(self, text: str, *, typing: str = "") -> str:
        """What was said until `text` comes, with it. `typing` is typed now and then: a terminal may lose a Ctrl-C."""
        end = time.monotonic() + 120
        while text not in self.said:
            if select.select([self.here], [], [], 0.5)[0]:
                try:
                    self.said += os.read(self.here, 4096).decode("utf-8", "replace")
                except OSError:  # the other end is closed
                    break
            elif typing:
                self.type(typing)
            if time.monotonic() > end:
                break
        assert text in self.said, f"{text!r} never came: {self.said!r}"
        before, _, self.said = self.said.partition(text)
        return before + text


@contextmanager
def terminal(*arguments: object) -> Iterator[Terminal]:
    session = Terminal(*arguments)
    try:
        yield session
    finally:
        session.process.kill()
        session.process.wait()
        os.close(session.here)


def test_a_conversation_goes_on_until_ctrl_d(llama):
    model = load_language(llama[0], verify=False)
    first = [{"role": "user", "content": "Hello!"}]
    answer = "".join(model.chat(first, max_tokens=8))
    second = [*first, {"role": "assistant", "content": answer}, {"role": "user", "content": "And?"}]
    with terminal("run", llama[0], "--max-tokens", 8) as chat:
        chat.wait_for("Ctrl-C stops an answer, Ctrl-D leaves.")
        chat.wait_for("> ")
        chat.type("Hello!\n")
        assert answer.strip() in chat.wait_for("\n> ").replace("\r\n", "\n")
        chat.type("\n")
        chat.wait_for("> ")
        chat.type("And?\n")
        assert "".join(model.chat(second, max_tokens=8)).strip() in chat.wait_for("\n> ").replace("\r\n", "\n")
        chat.type("\x04")
        assert chat.process.wait(timeout=60) == 0


def test_ctrl_c_stops_an_answer_and_not_the_conversation(llama, tmp_path: Path):
    weights = {name: weight.numpy() for name, weight in llama[1].state_dict().items()}
    endless = write_llama(tmp_path / "endless.gguf", llama[0].parent / "source", weights, llama__context_length=100_000)
    with terminal("run", endless, "--temperature", "1", "--context", "90000", "--threads", "1") as chat:
        chat.wait_for("> ")
        chat.wait_for("Ctrl-C stops an answer", typing="\x03")
        chat.wait_for("> ")
        for _ in range(2):
            chat.type("Hello!\n")
            chat.wait_for("Hello!")
            time.sleep(0.3)
            chat.type("\x03\x03")  # pressed twice, it still ends no conversation
            chat.wait_for("\n> ", typing="\x03")
        chat.type("\x04")
        assert chat.process.wait(timeout=60) == 0


def test_a_conversation_that_is_full_begins_anew(llama):
    with terminal("run", llama[0], "--max-tokens", 8, "--context", 40) as chat:
        chat.wait_for("> ")
        chat.type("Hello! " * 20 + "\n")
        assert "the context 40" in chat.wait_for("the conversation begins anew")
        chat.wait_for("> ")
        chat.type("Hi\n")
        chat.wait_for("\n> ")


def test_a_file_without_a_template_cannot_chat(llama, tmp_path: Path):
    weights = {name: weight.numpy() for name, weight in llama[1].state_dict().items()}
    plain = write_llama(tmp_path / "m.gguf", llama[0].parent / "source", weights, tokenizer__chat_template=None)
    with terminal("run", plain) as chat:
        chat.wait_for("cannot chat: it has no chat template; give --prompt TEXT")
        assert chat.process.wait(timeout=60) == 2
