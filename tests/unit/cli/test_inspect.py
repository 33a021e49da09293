"""``ferryfs inspect``: bare states, states in QEMU's files, damaged ones, on terminals and for programs."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ferryfs.cli.inspect import main
from ferryfs.migration import codec, stream
from ferryfs.migration.state import FullPath, Handle, Inode, Invalid, Options, RootNode, StateV1, StateV2
from ferryfs.migration.state import Path as AtPath
from ferryfs.migration.trailer_records import LostInodes

GOLDEN = Path(__file__).parents[2] / "golden"
OPTIONS = Options(False, True, False, True)
SMALL = StateV2(
    StateV1(
        (
            Inode(1, 4, RootNode(), None),
            Inode(2, 3, AtPath(1, "dir"), None),
            Inode(3, 1, AtPath(2, "b\x1b[31m\n"), None),
            Inode(4, 1, AtPath(2, "a"), None),
            Inode(5, 1, FullPath("x/y"), None),
            Inode(6, 1, Invalid(), None),
            Inode(7, 1, AtPath(1, "last"), None),
        ),
        8,
        (Handle(0, 4, 0o102), Handle(1, 4, 0o2001)),
        2,
        OPTIONS,
    ),
    (),
)


def qemu_file(*states: bytes, version: int = 0, chunk: int = 1000) -> bytes:
    """As QEMU writes it: header, guest memory with misleading text, a section for each device, and the description."""
    data = b"QEVM\0\0\0\3" + bytes(500) + b"\x05\x15vhost-user-fs-backend and so on" + bytes(500)
    data += b"\x05\x15vhost-user-fs-backend\0\0\0\0" + b"\xff" * 40
    for index, content in enumerate(states):
        name = f"0000:00:0{index}.0/vhost-user-fs".encode()
        data += b"\x04" + struct.pack(">IB", index, len(name)) + name + struct.pack(">II", 0, 0) + bytes(300)
        data += b"\x05\x15vhost-user-fs-backend" + struct.pack(">I", version)
        for start in range(0, len(content), chunk):
            part = content[start : start + chunk]
            data += struct.pack(">I", len(part)) + part
        data += bytes(4) + b"\x7e" + struct.pack(">I", index)
    return data + b'\0{"vmsd_name": "vhost-user-fs-backend"}'


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_a_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every inode once, in its directory, open files beside it, and nothing that a terminal would obey."""
    file = tmp_path / "state"
    file.write_bytes(codec.encode(SMALL))
    code, out, err = run(capsys, str(file))
    assert (code, err) == (0, "")
    tree = out.split("\n\n", 1)[1]
    assert tree == (
        "/  #1, 4 references\n"
        "├── dir  #2, 3 references\n"
        "│   ├── a  #4, 1 references, open: 0 (read+write, creat), 1 (write, append)\n"
        "│   └── b\\x1b[31m\\n  #3, 1 references\n"
        "└── last  #7, 1 references\n"
        "/x/y  #5, 1 references\n"
        "(not located)  #6, 1 references\n"
    )
    head = out.split("\n\n", 1)[0]
    assert "version   2" in head
    assert "mode      find-paths" in head
    assert "options   announce_submounts, sup_group_extension" in head
    assert "note      The source could not locate inode 6." in head
    assert "note      The flags of handle 0 would create or truncate" in head
    assert "note      Nothing in it proves which directory the root was." in head


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.bin")), ids=lambda path: path.stem)
def test_golden(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every golden stream, as text and as JSON; the JSON is the meaning that is kept beside it."""
    code, out, _ = run(capsys, str(file))
    meaning = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert code == 0
    assert all(f"#{inode['id']}," in out for inode in meaning["inodes"])
    code, out, _ = run(capsys, "--json", str(file))
    (said,) = json.loads(out)
    assert code == 0
    assert said["loadable"]
    assert {key: said[key] for key in meaning if key != "known"} == {
        key: meaning[key] for key in meaning if key != "known"
    }


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_in_a_migration_file(chunk: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two devices of one guest, in chunks of any size, among text that only looks like a state."""
    file = tmp_path / "guest"
    small = codec.encode(SMALL)
    trailed = b"".join(stream.save(SMALL, [LostInodes(())]))
    file.write_bytes(qemu_file(small, trailed, chunk=chunk))
    code, out, err = run(capsys, str(file))
    assert (code, err) == (0, "")
    assert "Device 0000:00:00.0/vhost-user-fs, at byte" in out
    assert "Device 0000:00:01.0/vhost-user-fs, at byte" in out
    code, out, _ = run(capsys, "--json", str(file))
    assert [(part["bytes"], part["trailer"] is None) for part in json.loads(out)] == [
        (len(small), True),
        (len(trailed), False),
    ]


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", 1, "it is empty"),
        (b"hello", 1, "byte 0 of the state: the version is of kind 104"),
        (codec.encode(SMALL)[:-1], 1, "is marked|the data ends|are left"),
        (codec.encode(SMALL) + b"\0\0", 1, "2 bytes follow that are no trailer of ferryfs"),
        (codec.encode(SMALL, trailer_follows=True), 1, "where its trailer should begin"),
        (qemu_file(), 1, "no state of a virtio-fs device is in this migration file"),
        (qemu_file(b"\x01\x09"), 1, "9 inodes are announced"),
        (
            codec.encode(StateV1((Inode(2, 1, AtPath(2, ".."), None),), 3, (), 1, OPTIONS)),
            1,
            "there are inodes but no root",
        ),
    ],
)
def test_what_is_no_state(
    content: bytes, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence on stderr, with the file's name."""
    file = tmp_path / "state"
    file.write_bytes(content)
    got, _, err = run(capsys, str(file))
    assert got == code
    assert err.startswith(f"ferryfs inspect: {file}: ")
    assert err.count("\n") == 1
    assert any(text in err for text in said.split("|"))


def test_what_can_not_be_loaded_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A loop of directories: still listed, and said to be what it is."""
    loop = StateV1(
        (Inode(1, 2, RootNode(), None), Inode(2, 1, AtPath(3, "a"), None), Inode(3, 1, AtPath(2, "b"), None)),
        4,
        (),
        1,
        OPTIONS,
    )
    file = tmp_path / "state"
    file.write_bytes(codec.encode(loop))
    code, out, err = run(capsys, str(file))
    assert code == 1
    assert "in a loop" in err
    assert "(in 3) a  #2, 1 references   (leads to no root)" in out
    code, out, _ = run(capsys, "--json", str(file))
    assert code == 1
    assert json.loads(out)[0]["loadable"] is False


def test_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    """The user's fault: status 2."""
    code, _, err = run(capsys, "/nonexistent/state")
    assert (code, err) == (2, "ferryfs inspect: /nonexistent/state: it can't be read: No such file or directory\n")


def test_standard_input() -> None:
    """FILE may be -."""
    command = [sys.executable, "-c", "import sys; from ferryfs.cli.inspect import main; sys.exit(main(['-']))"]
    done = subprocess.run(command, input=codec.encode(SMALL), capture_output=True, timeout=60)
    assert done.returncode == 0
    assert b"dir  #2" in done.stdout
    assert done.stderr == b""


def test_a_chain_and_a_crowd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """5,000 nested directories need no recursion; the tree ends after 500 lines unless all is wanted."""
    chain = tuple(Inode(n, 2, AtPath(n - 1, "d"), None) for n in range(2, 5001))
    file = tmp_path / "state"
    file.write_bytes(codec.encode(StateV1((Inode(1, 3, RootNode(), None), *chain), 5001, (), 1, OPTIONS)))
    _, out, _ = run(capsys, str(file))
    assert "... and more: 5000 inodes in all (--all shows them)" in out
    _, out, _ = run(capsys, "--all", str(file))
    assert "#5000, 2 references" in out
