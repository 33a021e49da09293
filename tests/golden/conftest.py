"""The directory that the guests of these tests use."""

from pathlib import Path

import pytest

from golden.scenarios import build


@pytest.fixture
def share(tmp_path: Path) -> Path:
    folder = tmp_path / "share"
    folder.mkdir()
    build(folder)
    return folder
