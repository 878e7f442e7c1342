"""A placement in words: what fell back, why, and what to change."""

import json

from edgepress.compress.placed_text import advice, fallen, notes, render, rows, to_json
from edgepress.runtime.placement import Placed, Placement

MIXED = Placement(
    (
        Placed("a", "Conv", "qnn", "npu", macs=900),
        Placed("b", "MatMulNBits", "cpu", "cpu", "Missing OpBuilder", 60),
        Placed("c", "MatMulNBits", "cpu", "cpu", "Missing OpBuilder", 30),
        Placed("d", "Gemm", "cpu", "cpu", macs=10),
    ),
    ("qnn", "cpu"),
    {"qnn": 3.0, "cpu": 1.0},
)
NOTHING = Placement((Placed("a", "Conv", "cpu", "cpu", "Cannot get shape", 5),), ("qnn", "cpu"))


def test_each_provider_has_a_row_with_its_shares_of_work_and_time():
    assert rows(MIXED) == [
        ("qnn", "npu", "1", "900", "90.0%", "3 ms", "75.0%"),
        ("cpu", "cpu", "3", "100", "10.0%", "1 ms", "25.0%"),
    ]


def test_without_times_or_work_the_cells_are_empty():
    assert rows(Placement((Placed("a", "Relu", "cpu", "cpu"),))) == [("cpu", "cpu", "1", "0", "", "", "")]


def test_what_fell_back_is_grouped_by_operator_and_reason_the_costliest_first():
    first, second = fallen(MIXED)
    assert (first.op, first.nodes, first.share, first.reason) == ("MatMulNBits", 2, 0.09, "Missing OpBuilder")
    assert (second.op, second.nodes, second.share, second.reason) == ("Gemm", 1, 0.01, "")


def test_advice_names_the_operators_that_accelerators_mostly_refuse():
    operator, copies = advice(MIXED)
    assert operator.startswith("MatMulNBits: few providers take weights in blocks, and only some sizes")
    assert copies.startswith("each change of unit copies")


def test_a_unit_that_took_nothing_of_a_file_wants_fixed_shapes():
    assert advice(NOTHING) == (
        "qnn takes fixed shapes only; fix the free axes: edgepress export ARTIFACT --on sm8650 --out FOLDER",
    )


def test_where_all_runs_on_the_first_unit_there_is_nothing_to_change():
    assert advice(Placement(MIXED.nodes[:1], ("qnn", "cpu"))) == ()


def test_the_notes_say_what_the_figures_do_not():
    assert notes(MIXED, "aarch64") == ()
    assert "simulated" in notes(MIXED, "x86_64")[0]
    lost = notes(Placement(MIXED.nodes, lost=7), "aarch64")
    assert lost[0].startswith("7 MACs are of nodes that the engine fused under other names")
    assert lost[1] == "the engine tells no times"


def test_json_holds_everything():
    raw = json.loads(to_json(MIXED, "x86_64", "missed"))
    assert raw["providers"]["qnn"] == {"unit": "npu", "nodes": 1, "macs": 900, "ms": 3.0}
    assert len(raw["nodes"]) == 4
    assert raw["fell back"][0]["op"] == "MatMulNBits"
    assert raw["missed"] == "missed"


def test_the_terminal_shows_the_table_the_reasons_and_what_is_missed(capsys):
    render(MIXED, "net on host", "aarch64", "too little on npu")
    said = capsys.readouterr().out
    for words in (
        "net on host",
        "not on qnn:",
        "Missing OpBuilder",
        "the engine gives no reason",
        "missed: too little",
    ):
        assert words in said
    many = Placement(tuple(Placed(str(i), f"Op{i}", "cpu", "cpu") for i in range(20)), ("qnn", "cpu"))
    render(many, "net", "aarch64", "")
    assert "8 more operators: --json" in capsys.readouterr().out
