"""The documents about options say what the table says."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ferryfs.cli.options import flag, table
from ferryfs.cli.options_manual import PAGE, REFERENCE, manual_page, reference

DOCS = Path(__file__).parents[3] / "docs"
FRESHEN = "run: python -m ferryfs.cli.options_manual docs"


def test_documents_are_fresh() -> None:
    assert (DOCS / REFERENCE).read_text() == reference(), FRESHEN
    assert (DOCS / PAGE).read_text() == manual_page(), FRESHEN


def test_every_option_is_in_both() -> None:
    page = manual_page().replace("\\-", "-")
    for name in table():
        assert flag(name) in reference()
        assert flag(name) in page


def test_page_is_clean_roff() -> None:
    program = shutil.which("mandoc") or shutil.which("groff")
    if program is None:
        pytest.skip("neither mandoc nor groff is installed (package mandoc or groff-base)")
    words = [program, "-T", "lint"] if program.endswith("mandoc") else [program, "-man", "-Tutf8", "-ww"]
    done = subprocess.run(words, input=manual_page(), capture_output=True, text=True, check=False)
    assert "error" not in (done.stderr + done.stdout if "mandoc" in program else done.stderr).lower()


def test_every_option_has_a_line_about_compatibility() -> None:
    table_lines = (DOCS / "compatibility.md").read_text()
    for name in table():
        assert f"{flag(name)}" in table_lines, f"docs/compatibility.md has no line for {flag(name)}"
