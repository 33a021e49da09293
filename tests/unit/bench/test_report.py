"""A run as data: what is computed from it, that it survives its file, and that it stays on its machine."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from ferryfs.bench.bars import BARS, Check
from ferryfs.bench.html import page
from ferryfs.bench.machine import Machine
from ferryfs.bench.micro import percentile
from ferryfs.bench.report import markdown
from ferryfs.bench.results import BARE, Cell, Run, join
from ferryfs.errors import OptionError

MACHINE = Machine("abc", "Processor", 2, 1024, "6.1", "3.11.2", "ext4")


def cell(row: str, subject: str, rates: list[float], cpu_us: float = 1.0, case: str = "16") -> Cell:
    more = {} if subject == BARE else {"p50_us": 1.0, "p99_us": 2.0, "p999_us": 3.0, "front_end_share": 0.4}
    return Cell("micro", row, case, subject, tuple({"rate": rate, "cpu_us": cpu_us, **more} for rate in rates))


def run_of(*cells: Cell) -> Run:
    names = [name for name in dict.fromkeys(one.subject for one in cells) if name != BARE]
    return Run(
        machine=MACHINE,
        commands=["ferryfs bench"],
        load="0.1",
        daemons={name: f"{name} --shared-dir=x" for name in names},
        settings={"micro": "in turn"},
        cells=list(cells),
    )


RUN = run_of(
    cell("getattr", "ours", [10.0, 20.0, 90.0], 0.7),
    cell("getattr", "slow", [5.0, 40.0, 45.0], 3.0),
    cell("getattr", "fast", [5.0, 40.0, 45.0], 1.0),
    cell("getattr", BARE, [100.0, 100.0, 100.0], 0.2),
)


def checks(what: str, run: Run) -> list[Check]:
    """The checks of the one bar whose words begin so."""
    (bar,) = [bar for bar in BARS if bar.what.startswith(what)]
    return list(bar.checks(run))


def test_a_ratio_compares_neighbours_in_time() -> None:
    ours, theirs, *_ = RUN.cells
    assert ours.ratio(theirs, "rate") == 2.0
    assert (ours.median("rate"), theirs.median("rate")) == (20.0, 40.0)
    assert cell("x", "y", [7.0]).spread("rate") == 0.0


@pytest.mark.parametrize(("part", "value"), [(0.0, 1), (0.5, 6), (0.99, 10), (1.0, 10)])
def test_percentile(part: float, value: int) -> None:
    assert percentile(range(1, 11), part) == value


def test_percentile_of_nothing() -> None:
    assert percentile([], 0.5) == 0.0


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    RUN.save(tmp_path / "run.json")
    assert Run.load_json(tmp_path / "run.json") == RUN


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 2, "machine": {}}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(OptionError, match=r"run\.json is no run that `ferryfs bench --json` wrote"):
        Run.load_json(tmp_path / "run.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="can't be read: No such file"):
        Run.load_json(tmp_path / "run.json")


def test_a_run_of_this_version_only(tmp_path: Path) -> None:
    RUN.save(tmp_path / "run.json")
    data = json.loads((tmp_path / "run.json").read_text())
    data["surplus"] = 1
    (tmp_path / "run.json").write_text(json.dumps(data))
    with pytest.raises(OptionError, match="surplus"):
        Run.load_json(tmp_path / "run.json")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Machine)])
def test_figures_of_another_machine_are_refused(field: str) -> None:
    other = dataclasses.replace(MACHINE, **{field: 7 if isinstance(getattr(MACHINE, field), int) else "other"})
    there = dataclasses.replace(RUN, machine=other)
    MACHINE.check_same(dataclasses.replace(MACHINE), "old.json")
    for together in (lambda: RUN.beside(there, "old.json"), lambda: join([("new.json", RUN), ("old.json", there)])):
        with pytest.raises(OptionError, match=rf"old\.json was measured on another machine \({field} "):
            together()


def test_this_machine_is_itself(tmp_path: Path) -> None:
    Machine.here(tmp_path).check_same(Machine.here(tmp_path), "now")
    assert Machine.here(tmp_path).file_system != "unknown"


def test_a_bar_takes_the_faster_anchor_and_what_is_above_the_bare_calls() -> None:
    (above,) = checks("processor time above", RUN)
    assert above.value == pytest.approx((0.7 - 0.2) / (1.0 - 0.2))
    assert not above.holds
    (total,) = checks("processor time of getattr", RUN)
    assert (total.value, total.holds) == (pytest.approx(0.7), False)
    # A fifth of the faster anchor's time is bare calls, so the higher bar of the rate holds for this row.
    (rate,) = checks("rate with 16 and 32", RUN)
    assert (rate.value, rate.limit, rate.holds) == (2.0, 1.5, True)


def test_a_bar_leaves_out_where_the_front_end_is_the_limit() -> None:
    turns = tuple({**turn, "front_end_share": 0.99} for turn in RUN.cells[0].turns)
    limited = dataclasses.replace(RUN, cells=[dataclasses.replace(RUN.cells[0], turns=turns), *RUN.cells[1:]])
    assert checks("rate with 16 and 32", limited) == []


def test_tables_show_figures_ratios_and_misses() -> None:
    text = markdown(RUN)
    assert "| getattr | 16 | 20.0 ±200% | 40.0 ±50% | 40.0 ±50% | 100 ±0% | 2.00 | 2.00 |" in text
    assert "| getattr | 16 | 0.70 ±0% | 3.00 ±0% | 1.00 ±0% | 0.20 ±0% | 0.23 | 0.70 | 20% | 40% |" in text
    assert "at most 0.5 of its | **0 of 1** | getattr 0.70 |" in text
    assert "| start to ready, ms | at most 120 | not measured |" in text


def test_an_earlier_run_beside_this_one() -> None:
    new = run_of(cell("getattr", "ours", [1.0, 2.0, 3.0]))
    both = new.beside(RUN, "old.json")
    assert list(both.daemons) == ["ours", "before"]
    assert [one.subject for one in both.cells] == ["ours", "before"]
    with pytest.raises(OptionError, match=r"old\.json lacks rows or cases"):
        run_of(*new.cells, cell("rename", "ours", [1.0])).beside(RUN, "old.json")
    with pytest.raises(OptionError, match="other --rounds"):
        run_of(cell("getattr", "ours", [1.0])).beside(RUN, "old.json")


def test_runs_of_several_parts_are_one() -> None:
    again = dataclasses.replace(RUN, cells=[cell("getattr", "ours", [7.0])], commands=["again"])
    other = dataclasses.replace(RUN, cells=[cell("rename", "ours", [1.0])])
    whole = join([("a", RUN), ("b", again), ("c", other)])
    assert [(one.row, one.subject, len(one.turns)) for one in whole.cells] == [
        ("getattr", "ours", 1),
        ("rename", "ours", 1),
    ]
    assert whole.commands == ["ferryfs bench", "again", "ferryfs bench"]
    with pytest.raises(OptionError, match="c measured other daemons"):
        join([("a", RUN), ("c", dataclasses.replace(RUN, daemons={"x": "x"}))])


def test_the_html_report_stands_alone() -> None:
    text = page(RUN)
    assert text.count("<svg") == 3
    assert "<td>20.0 ±200%</td>" in text
    assert '<span class="chip bad">0 of 1</span>' in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text), "nothing is fetched from anywhere"
