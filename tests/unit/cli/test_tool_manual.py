"""ferryfs(1) says what the sub-commands say."""

from pathlib import Path

from ferryfs.cli.tool import COMMANDS
from ferryfs.cli.tool_manual import PAGE, manual_page

DOCS = Path(__file__).parents[3] / "docs"


def test_page_is_fresh() -> None:
    assert (DOCS / PAGE).read_text() == manual_page(), "run: python -m ferryfs.cli.tool_manual docs"


def test_every_command_and_its_options_are_there() -> None:
    page = manual_page().replace("\\-", "-")
    for name in COMMANDS:
        assert f".SS {name}\n" in page
    for words in (
        "--no-drain",
        "--restore FILE",
        "--queue-size N",
        "xattrmap test RULES",
        "--prefix=DIR",
        "--against NAME=COMMAND",
        "--report FILE",
    ):
        assert words in page
