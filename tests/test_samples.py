"""The samples run, and reach what they promise."""

import json
import runpy
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def accuracy(network: torch.nn.Module, data) -> float:
    with torch.no_grad():
        logits = network(torch.from_numpy(data.test_images)).numpy()
    return float((logits.argmax(-1) == data.test_labels).mean())


def test_the_digits_are_split_once_for_all_and_no_test_image_is_trained_on(digits_sample: ModuleType):
    first, again = digits_sample.digits(), digits_sample.digits()
    assert first.train_images.shape == (1257, 1, 32, 32)
    assert first.test_images.shape == (540, 1, 32, 32)
    assert first.train_images.dtype == np.float32
    assert (first.train_images.min(), first.train_images.max()) == (0, 1)
    assert np.array_equal(first.test_images, again.test_images)
    seen = {image.tobytes() for image in first.train_images}
    assert not any(image.tobytes() in seen for image in first.test_images)
    assert np.bincount(first.test_labels).min() >= 50


def test_resnet8_has_the_shape_of_mlperf_tiny(digits_sample: ModuleType):
    network = digits_sample.ResNet8()
    assert network(torch.zeros(3, 1, 32, 32)).shape == (3, 10)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [16, 16, 16, 32, 32, 32, 64, 64, 64]
    assert sum(p.numel() for p in network.parameters()) == 77_754


def test_ds_cnn_has_the_shape_of_mlperf_tiny(digits_sample: ModuleType):
    """A stem, then four times a depthwise and a pointwise convolution, 64 wide; the stem is 5x5 for square images."""
    network = digits_sample.DsCnn()
    assert network(torch.zeros(3, 1, 32, 32)).shape == (3, 10)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.kernel_size[0], c.groups) for c in convolutions] == [(5, 1), *[(3, 64), (1, 1)] * 4]
    assert {c.out_channels for c in convolutions} == {64}
    assert sum(p.numel() for p in network.parameters()) == 22_090


@pytest.mark.slow
def test_ds_cnn_reaches_what_the_sample_promises(digits_sample: ModuleType):
    task = digits_sample.ds_cnn()
    assert task.model.name == "digits-ds-cnn"
    assert accuracy(task.model.module, digits_sample.digits()) >= 0.98


def test_training_is_deterministic_and_leaves_the_callers_random_numbers_alone(digits_sample: ModuleType):
    data = digits_sample.digits()
    torch.manual_seed(7)
    first = digits_sample.train(data, epochs=1).state_dict()
    drawn = torch.rand(1)
    second = digits_sample.train(data, epochs=1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(1))


def test_the_training_reaches_what_the_sample_promises(digits_weights: Path, digits_sample: ModuleType):
    network = digits_sample.ResNet8()
    network.load_state_dict(load_file(digits_weights))
    assert accuracy(network.eval(), digits_sample.digits()) >= 0.985


def test_a_task_file_around_saved_weights_gives_the_same_network(digits_task: Path, digits_sample: ModuleType):
    task = runpy.run_path(str(digits_task))["task"]()
    assert task.model.name == "digits"
    assert accuracy(task.model.module, digits_sample.digits()) >= 0.98
    assert {len(batch["image"]) for batch in task.data.training} == {64}
    assert sum(len(batch["image"]) for batch in task.data.calibration) == 256

    def session(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        return {k: v.numpy() for k, v in task.model(**{n: torch.from_numpy(a) for n, a in inputs.items()}).items()}

    assert task.data.score(session)["top1"] == pytest.approx(accuracy(task.model.module, digits_sample.digits()))


def test_the_encoder_that_other_tests_use_is_the_real_one(minilm: Path):
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in minilm.iterdir()}
    assert (minilm / "model.safetensors").stat().st_size > 90_000_000


@pytest.fixture(scope="module")
def small_llama(tinyllm_sample: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, float]:
    """The sample's folder after 60 steps, and the perplexity of unseen text before and after."""
    folder = tmp_path_factory.mktemp("tinyllm") / "small"
    return folder, *tinyllm_sample.make(folder, tinyllm_sample.SMALL, steps=60)


def test_the_small_llama_learns_and_loads_with_transformers(small_llama: tuple[Path, float, float]):
    folder, before, after = small_llama
    assert 450 < before < 600  # 512 tokens, all alike
    assert after < before / 1.5
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "texts.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    with torch.no_grad():
        logits = model(torch.arange(40)[None]).logits
    assert logits.shape == (1, 40, 512)
    assert logits.isfinite().all()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["tie_word_embeddings"]) == ("llama", True)
    assert all(tensor.shape[-1] % 256 == 0 for tensor in load_file(folder / "model.safetensors").values())


@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n\treturn {'a': x**2}  # ü\r\n",
        "🙂👩‍👩‍👧‍👦 🇨🇭",
        "中文，日本語 한국어",
        "e\u0301 n\u0303o\u0308",
        "  two  spaces \n\n",
    ],
    ids=["code", "emoji", "CJK", "combining marks", "spaces"],
)
def test_the_tokenizer_of_the_small_llama_gives_every_text_back(small_llama: tuple[Path, float, float], text: str):
    tokenizer = AutoTokenizer.from_pretrained(small_llama[0], local_files_only=True)
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id == 0
    assert tokenizer.decode(ids[1:]) == text


def test_a_chat_with_the_small_llama_is_in_the_form_that_it_was_trained_on(
    small_llama: tuple[Path, float, float], tinyllm_sample: ModuleType
):
    tokenizer = AutoTokenizer.from_pretrained(small_llama[0], local_files_only=True)
    messages = [{"role": "user", "content": "What does f do?"}]
    said = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert said == "<s><|im_start|>user\nWhat does f do?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(said, add_special_tokens=False).input_ids
    assert [ids.count(i) for i in range(4)] == [1, 0, 2, 1]  # the four special tokens are one token each
    page = tinyllm_sample.Page("m", (), (("m.f", "Return nothing at all."),))
    (_, chat) = tinyllm_sample.documents([page], np.random.default_rng(0))
    question = next(form.format("m.f") for form in tinyllm_sample.QUESTIONS if form.format("m.f") in chat)
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "Return nothing at all."}]
    assert "<s>" + chat == tokenizer.apply_chat_template(turns, tokenize=False)


def test_the_small_llama_was_not_trained_on_the_texts_that_it_is_judged_by(
    small_llama: tuple[Path, float, float], tinyllm_sample: ModuleType
):
    texts = (small_llama[0] / "texts.txt").read_text(encoding="utf-8").splitlines()
    assert len(texts) > 40
    assert all(80 < len(text) < 800 for text in texts)
    pages = [each for each in tinyllm_sample.library(tinyllm_sample.SMALL.files) if not each.unseen]
    learnt = "\n".join(tinyllm_sample.documents(pages, np.random.default_rng(0)))
    assert not [text for text in texts if text in learnt]


def test_what_the_library_says_is_cut_into_pages_and_answers(tinyllm_sample: ModuleType, tmp_path: Path):
    path = tmp_path / "m.py"
    path.write_text(
        '"""A module,\nin two lines.\n\n>>> function()\n1\n"""\n\n# A comment\n# of two lines.\n\n# -----\n# -----\n\n'
        '\nclass C:\n    def f(self):\n        """Return one. Or two."""\n\n'
        '    def _g(self):\n        """Hide something."""\n',
        encoding="utf-8",
    )
    page = tinyllm_sample.page("m", path)
    assert page.paragraphs == (
        *("m", "A module, in two lines.", ">>> function()\n1"),
        *("m.C.f", "Return one. Or two.", "m.C._g", "Hide something.", "A comment of two lines."),
    )
    assert page.answers == (("m", "A module, in two lines."),)
    assert tinyllm_sample.Page("statistics", ()).unseen is False


def test_a_llama_that_was_killed_keeps_its_plan_and_a_finished_folder_is_left_alone(
    tinyllm_sample: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "steps").write_text("2", encoding="utf-8")
    tinyllm_sample.make(tmp_path, tinyllm_sample.SMALL, minutes=1000)
    assert "step 1 of 2" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_code:
        tinyllm_sample.main([str(tmp_path), "--small"])
    assert exit_code.value.code == 2
    assert f"{tmp_path} is not empty; name another folder, or remove it" in capsys.readouterr().err
