"""The golden streams: read as they mean, written back byte for byte, and in agreement with what the guest itself
knew.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ferryfs.errors import StateError
from ferryfs.migration import codec, describe, stream
from golden.peer import VERSIONS
from golden.scenarios import SCENARIOS

HERE = Path(__file__).parent
STREAMS = sorted(HERE.glob("*.bin"))
# Taken off an open's flags before they travel.
NOT_REOPENED = 0o100 | 0o200 | 0o1000 | 0o2000  # O_CREAT, O_EXCL, O_TRUNC; and virtiofsd leaves O_APPEND to the guest


def meaning(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return found


def test_all_are_there() -> None:
    """Each version in each scenario."""
    names = {f"virtiofsd-{version}-{scenario.name}" for version in VERSIONS for scenario in SCENARIOS}
    assert names <= {path.stem for path in STREAMS}


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_meaning(path: Path) -> None:
    """Decoded, it says what the JSON beside it says."""
    expected = meaning(path)
    expected.pop("known", None)
    assert json.loads(json.dumps(describe.stream(stream.load(path.read_bytes())))) == expected


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_written_back(path: Path) -> None:
    """Encoded again it is the same bytes: ours can't be told from theirs."""
    found = stream.load(path.read_bytes())
    records = None if found.trailer is None else found.trailer.records
    assert b"".join(stream.save(found.state, records)) == path.read_bytes()


@pytest.mark.parametrize("path", [path for path in STREAMS if "known" in meaning(path)], ids=lambda path: path.stem)
def test_what_the_guest_knew(path: Path) -> None:
    """The facts that the recording guest had, not our decoder's: its inodes, lookup counts, open files; the tree's
    sums.
    """
    found = meaning(path)
    known = found["known"]
    inodes = {inode["id"]: inode for inode in found["inodes"]}
    assert {int(number) for number in known["paths"]} == set(inodes) - {1}
    children: dict[int, int] = {}
    for inode in inodes.values():
        if inode["location"]["kind"] == "Path":
            parent = inode["location"]["parent"]
            children[parent] = children.get(parent, 0) + 1
    for number, inode in inodes.items():
        lookups = 2 if number == 1 else known["lookups"][str(number)]
        assert lookups + children.get(number, 0) == inode["refcount"], f"inode {number}"
    assert {int(number) for number in known["handles"]} == {handle["id"] for handle in found["handles"]}
    for handle in found["handles"]:
        node, flags = known["handles"][str(handle["id"])]
        assert handle["inode"] == node
        assert handle["flags"] & ~0o2000 == flags & ~NOT_REOPENED
    for number, told in known["paths"].items():
        said = full_path(inodes, int(number))
        if said is not None and told not in ("README", "src/hard"):  # one file of two names
            assert said == told


def full_path(inodes: dict[int, Any], number: int) -> str | None:
    location = inodes[number]["location"]
    if location["kind"] == "RootNode":
        return ""
    if location["kind"] != "Path":
        return None
    above = full_path(inodes, location["parent"])
    return None if above is None else f"{above}/{location['filename']}".lstrip("/")


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_damaged(path: Path) -> None:
    """Cut anywhere it is refused; with a bit flipped it is a state or an error, and nothing else."""
    data = path.read_bytes()
    for length in range(len(data)):
        with pytest.raises(StateError):
            stream.load(data[:length])
    for position in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with suppress(StateError):
            stream.load(damaged)


def test_one_state_in_both_versions() -> None:
    """Version 1 is version 2 less its first byte and the map."""
    two = codec.decode((HERE / "virtiofsd-1.14.0-find-paths.bin").read_bytes()).state
    data = codec.encode(two)
    one = codec.decode(b"\0" + data[1:-1]).state
    assert one == getattr(two, "v1", None)
