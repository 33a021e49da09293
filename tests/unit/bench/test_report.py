"""A run as data: what is computed from it, that it survives its file, and that it stays on its machine."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from ferryfs.bench.html import page
from ferryfs.bench.machine import Machine
from ferryfs.bench.measure import Cell, Slice, percentile
from ferryfs.bench.report import Run, markdown
from ferryfs.errors import OptionError

MACHINE = Machine("abc", "Processor", 2, 1024, "6.1", "3.11.2", "ext4")


def cell(row: str, daemon: str, rates: list[float], cpu_us: float = 1.0) -> Cell:
    return Cell(row, 1, daemon, tuple(Slice(rate, cpu_us, 1.0, 2.0, 3.0, 0.5) for rate in rates))


def run_of(*cells: Cell) -> Run:
    names = list(dict.fromkeys(one.daemon for one in cells))
    return Run(
        machine=MACHINE,
        command="ferryfs bench",
        load="0.1",
        daemons={name: f"{name} --shared-dir=x" for name in names},
        rounds=3,
        seconds=0.1,
        polling=False,
        idle_kib=dict.fromkeys(names, 10240),
        after_kib=dict.fromkeys(names, 20480),
        ready_s=dict.fromkeys(names, 0.1),
        cells=list(cells),
    )


RUN = run_of(
    cell("getattr", "ours", [10.0, 20.0, 90.0], 0.6),
    cell("getattr", "theirs", [5.0, 40.0, 45.0], 1.0),
)


def test_a_ratio_compares_neighbours_in_time() -> None:
    ours, theirs = RUN.cells
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


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "machine": {}}'])
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
    MACHINE.check_same(dataclasses.replace(MACHINE), "old.json")
    with pytest.raises(OptionError, match=rf"old\.json was measured on another machine \({field} "):
        MACHINE.check_same(other, "old.json")


def test_this_machine_is_itself(tmp_path: Path) -> None:
    Machine.here(tmp_path).check_same(Machine.here(tmp_path), "now")
    assert Machine.here(tmp_path).file_system != "unknown"


def test_a_row_that_misses_its_bar_is_marked() -> None:
    text = markdown(RUN)
    # The rate's bar is 1.00; that of getattr's processor time is 0.50.
    assert "| getattr | 1 | 20.0 ±200% | 40.0 ±50% | 2.00 |" in text
    assert "| getattr | 1 | 0.60 | 1.00 | **0.60** | 0.50 |" in text


def test_an_earlier_run_beside_this_one() -> None:
    new = [cell("getattr", "ours", [1.0, 2.0, 3.0])]
    assert [one.daemon for one in RUN.under("before", new)] == ["before"]
    with pytest.raises(OptionError, match="lacks rows or depths"):
        RUN.under("before", [*new, cell("rename", "ours", [1.0, 2.0, 3.0])])
    with pytest.raises(OptionError, match="other --rounds"):
        RUN.under("before", [cell("getattr", "ours", [1.0])])


def test_the_html_report_stands_alone() -> None:
    pytest.importorskip("pygal", reason="pygal is missing: pip install 'ferryfs[bench]'")
    text = page(RUN)
    assert text.count("<svg") == 2
    assert "<td>20.0 ±200%</td>" in text
    assert '<td class="missed">0.60</td>' in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text), "nothing is fetched from anywhere"
