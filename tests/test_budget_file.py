import pytest

from edgepress.devices.budget import Budget
from edgepress.devices.budget_file import Limits, misses_of_groups, read_limits, words
from edgepress.runtime.errors import UnknownName, UsageError

from .commands import SMALL, edgepress

BUDGET = """
size = "1MB"
latency = "2ms"
drop = "1%"

[models.digits-int8]
size = "100kB"
memory = "64MiB"
"""


@pytest.fixture
def written(tmp_path):
    """`written(text)`: the path of a budget.toml with that text."""

    def write(text: str | bytes) -> str:
        path = tmp_path / "budget.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def test_a_file_holds_the_same_limits_as_a_text(written):
    assert read_limits(written('size = "1MB"\nlatency = "2ms"\ndrop = "0.5%"')) == read_limits(
        "size<1MB, latency<2ms, drop<0.5%"
    )
    assert read_limits("") == read_limits(written("")) == Limits(Budget())


def test_a_models_own_limits_hold_in_place_of_those_of_every_model(written):
    limits = read_limits(written(BUDGET))
    assert limits.of("other") == Budget(size=1_000_000, latency=2.0, drop=0.01)
    assert limits.of("digits-int8") == Budget(size=100_000, latency=2.0, memory=64 * 2**20, drop=0.01)


def test_a_budget_in_words_names_the_models(written):
    limits = read_limits(written(BUDGET))
    assert words(limits, "digits-int8") == "size<100kB, latency<2ms, memory<67.108864MB, drop<1%"
    assert words(limits, "last").startswith("size<1MB, latency<2ms, drop<1%; digits-int8: size<100kB")
    assert words(read_limits(""), "any") == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('speed = "2ms"', "budget.toml 'speed'; known: drop, latency, memory, size"),
        ('[models.net]\nspeed = "2ms"', "budget.toml, net 'speed'; known: drop, latency, memory, size"),
        ("size = 1000000", "size is 1000000; expected a text with its unit, like size = \"1MB\""),
        ('size = "1"', "budget.toml: the budget for size is in 'no unit'; expected one of: B, kB"),
        ('size = "1MB, drop<1%"', "size is '1MB, drop<1%'; expected a text with its unit"),
        ('[models.net]\nsize = "0B"', "budget.toml, net: the budget says 'size<0B'; expected a limit above 0"),
        ('models = "net"', "models is no table; expected [models.NAME] with limits below it"),
        ('[models]\nnet = "1MB"', "net is '1MB'; expected a table of limits"),
        ("size: 1MB", "is not TOML (Expected '=' after a key"),
        (b"\xff\xfe", "is not TOML ('utf-8' codec can't decode"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_budget_is_refused_with_what_would_be_right(written, text, message):
    with pytest.raises(UsageError) as caught:
        read_limits(written(text))
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(
        UsageError, match=r"no/budget.toml cannot be read \(No such file or directory\); name a TOML file"
    ):
        read_limits("no/budget.toml")


def test_limits_of_a_model_that_is_not_there_are_refused(written):
    with pytest.raises(UnknownName, match="unknown model in the budget 'digits-int8'; known: digits-fp32, digits-int9"):
        read_limits(written(BUDGET)).refuse_others(["digits-fp32", "digits-int9"])
    read_limits(written(BUDGET)).refuse_others(["digits-int8"])


def test_the_last_model_and_those_that_are_named_are_held_to_their_limits(make_row, written):
    base, one, two = make_row("base", 4000), make_row("one", 3000), make_row("two", 2000)
    groups = [("base", [base]), ("one", [one]), ("two", [two])]
    assert misses_of_groups(groups, read_limits("size<1kB")) == ("size 2 kB, budget < 1 kB",)
    both = read_limits(written('size = "1kB"\n[models.one]\nsize = "2kB"'))
    assert misses_of_groups(groups, both) == (
        "one: size 3 kB, budget < 2 kB",
        "two: size 2 kB, budget < 1 kB",
    )


def test_report_and_compress_take_the_file(linear, perceptron_task, written, tmp_path):
    limits = written('size = "1B"\n[models.linear]\nlatency = "10s"')
    said = edgepress("report", linear, "--on", "pi5", "--budget", limits, "--json")
    assert said.code == 1
    assert said.json["budget"] == "size<1B, latency<10s"
    assert said.json["misses"][0].startswith("linear: size ")
    other = written('[models.linear2]\nlatency = "10s"')
    said = edgepress("report", linear, "--on", "pi5", "--budget", other)
    assert (said.code, said.complaint) == (2, "unknown model in the budget 'linear2'; known: linear")

    recipe = tmp_path / "small.toml"
    recipe.write_text(SMALL, encoding="utf-8")
    given = ("compress", perceptron_task, "--recipe", recipe, "--on", "pi5", "--out", tmp_path / "out", "--budget")
    said = edgepress(*given, other)
    assert said.complaint == "unknown model in the budget 'linear2'; known: perceptron-small"
    own = written('size = "1B"\n[models.perceptron-small]\nsize = "30kB"\ndrop = "1%"')
    said = edgepress(*given, own, "--json")
    assert said.code == 0
    assert said.json["budget"] == "size<30kB, drop<1%"
