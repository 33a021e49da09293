"""The engine's compiled structures and numbers (``fuse_abi.pxd``, ``server.pxd``) against the tables in wire/fuse.py.

The compiled side can't be asked at run time, so its declarations are read as text: packed structures of fixed-width
integers, and enumerations.
"""

import re
import struct
from pathlib import Path

import pytest

from ferryfs.wire import fuse
from ferryfs.wire.fuse import InitFlag, Layout, Op

ENGINE = Path(__file__).parents[3] / "src/ferryfs/engine"
ABI = (ENGINE / "fuse_abi.pxd").read_text()
SERVER = (ENGINE / "server.pxd").read_text()
CODES = {"uint16_t": "H", "uint32_t": "I", "int32_t": "i", "uint64_t": "Q", "int64_t": "q"}
RESERVED = re.compile(r"(padding|dummy|unused|reserved|spare)\d*")
# What the compiled side calls otherwise, because one structure serves two operations.
ALIASES = {("read_in", "io_flags"): "read_flags"}


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def declared() -> dict[str, list[tuple[str, str, int]]]:
    """Fields of every packed structure: type, name, count."""
    found: dict[str, list[tuple[str, str, int]]] = {}
    for match in re.finditer(r"^cdef packed struct (\w+):.*\n((?:    .*\n)+)", ABI + "\n", re.MULTILINE):
        fields = re.findall(r"^    (\w+) (\w+)(?:\[(\d+)\])?", match[2], re.MULTILINE)
        found[match[1]] = [(kind, name, int(count or 1)) for kind, name, count in fields]
    return found


STRUCTS = declared()
LAYOUTS = {value.name: value for value in vars(fuse).values() if isinstance(value, Layout)}


def code_of(name: str) -> str:
    """The structure as a format of ``struct``, reserved fields as padding, so as ``Layout`` has it."""
    code = ""
    for kind, field, count in STRUCTS[name]:
        one = code_of(kind) if kind in STRUCTS else CODES[kind]
        if RESERVED.fullmatch(field):
            code += f"{struct.calcsize('=' + one) * count}x"
        else:
            code += one * count
    return code


def expanded(code: str) -> str:
    """``4x`` written out, because the two sides may cut padding differently."""
    return re.sub(r"(\d+)x", lambda match: "x" * int(match[1]), code)


def fields_of(name: str, prefix: str = "") -> list[str]:
    fields = []
    for kind, field, _ in STRUCTS[name]:
        if kind in STRUCTS:
            fields += fields_of(kind, f"{field}_")
        elif not RESERVED.fullmatch(field):
            fields.append(prefix + ALIASES.get((snake(name), field), field))
    return fields


def test_structures_were_found() -> None:
    assert len(STRUCTS) == len(re.findall(r"\bstruct \w+:", ABI)) >= 30


@pytest.mark.parametrize("name", STRUCTS)
def test_structure(name: str) -> None:
    layout = LAYOUTS[snake(name)]
    assert expanded(code_of(name)) == expanded(layout.struct.format.removeprefix("="))
    assert tuple(fields_of(name)) == layout.fields


def test_write_has_the_shape_of_read() -> None:
    """The compiled side has one structure for both."""
    assert fuse.READ_IN.struct.format == fuse.WRITE_IN.struct.format


def test_operations() -> None:
    numbers = {name: int(number) for name, number in re.findall(r"^    OP_(\w+) = (\d+)", ABI, re.MULTILINE)}
    assert numbers.pop("END") == max(op for op in Op if op < 4096) + 1
    assert numbers == {op.name: int(op) for op in Op if op.name in numbers}
    assert {op.name for op in Op if op.served} <= set(numbers)


def test_dispatch_serves_what_the_table_says() -> None:
    dispatch = (ENGINE / "dispatch.pyx").read_text()
    assert set(re.findall(r"^operation\(OP_(\w+)", dispatch, re.MULTILINE)) == {op.name for op in Op if op.served}


def test_init_flags() -> None:
    shifts = {name: int(bit) for name, bit in re.findall(r"\bINIT_(\w+)(?: =| \(1ULL| )[ (]*(?:1 )?<< (\d+)", SERVER)}
    assert len(shifts) >= 20
    assert shifts == {name: InitFlag[name].bit for name in shifts}


def test_flags_of_fields() -> None:
    """Same names are same numbers; the compiled side says FUSE_ where the table does without."""
    values = {
        name: 1 << int(bit) for name, bit in re.findall(r"^    (F\w+|GETATTR_FH) = 1 << (\d+)", ABI, re.MULTILINE)
    }
    assert len(values) >= 20
    for name, value in values.items():
        assert getattr(fuse, name.removeprefix("FUSE_")) == value, name
