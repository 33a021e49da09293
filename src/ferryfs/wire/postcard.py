"""The primitives of postcard, the encoding of the migration state (and of our own trailer behind it).

Unsigned integers are LEB128 varints: seven bits a byte, lowest first, the top bit set on all but the last. Signed
ones are zigzag-mapped first. A bool is one byte, a string or byte sequence its length and then its bytes, a sequence
its count and then its items, an option one byte 0 or 1 and then the value, an enum its index and then its fields, a
struct its fields in order.

The bytes come from another host and are not trusted: a length or count that the rest of the input can't hold is
refused before anything is allocated. Everything that can be wrong raises StateError, with the byte offset at which it
stands.
"""

from __future__ import annotations

from typing import Final

from ferryfs.errors import StateError

U8_MAX: Final = (1 << 8) - 1
U32_MAX: Final = (1 << 32) - 1
U64_MAX: Final = (1 << 64) - 1

# ceil(64 / 7) and ceil(32 / 7): no varint of the type is longer, however it is padded.
_U64_VARINT_BYTES: Final = 10
_U32_VARINT_BYTES: Final = 5


class Reader:
    """Takes values off the front of ``data``; ``what`` names the value in the error text.

    ``data`` is only looked at: slices of it are copied where a value is returned, except by ``view``.
    """

    __slots__ = ("_base", "_data", "_end", "offset")

    def __init__(self, data: bytes | bytearray | memoryview, *, base: int = 0) -> None:
        """``base`` is the offset of ``data`` in the whole stream, for error texts."""
        self._data = memoryview(data).cast("B").toreadonly()
        self._end = len(self._data)
        self._base = base
        self.offset = 0

    @property
    def remaining(self) -> int:
        """Bytes not yet taken."""
        return self._end - self.offset

    def error(self, text: str, offset: int | None = None) -> StateError:
        """The error to raise for something wrong at ``offset`` (else here)."""
        return StateError(f"byte {self._base + (self.offset if offset is None else offset)} of the state: {text}")

    def rest(self) -> memoryview:
        """All that was not taken yet; it still is not."""
        return self._data[self.offset :]

    def take(self, length: int, what: str) -> memoryview:
        """The next ``length`` bytes, not copied."""
        if length > self.remaining:
            raise self.error(f"{what} needs {length} bytes, but only {self.remaining} are left")
        start = self.offset
        self.offset = start + length
        return self._data[start : self.offset]

    def _varint(self, most_bytes: int, largest: int, what: str) -> int:
        value = 0
        start = self.offset
        for index in range(most_bytes):
            if start + index >= self._end:
                raise self.error(f"the data ends within {what}", start)
            byte = self._data[start + index]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if value > largest:
                    raise self.error(f"{what} is a number larger than {largest}", start)
                self.offset = start + index + 1
                return value
        raise self.error(f"{what} is a number of more than {most_bytes} bytes", start)

    def u8(self, what: str) -> int:
        return self.take(1, what)[0]

    def u32(self, what: str) -> int:
        return self._varint(_U32_VARINT_BYTES, U32_MAX, what)

    def u64(self, what: str) -> int:
        """A varint. One padded with zero groups is read like the reference decoder reads it: as the number."""
        return self._varint(_U64_VARINT_BYTES, U64_MAX, what)

    def i32(self, what: str) -> int:
        return _unzigzag(self.u32(what))

    def i64(self, what: str) -> int:
        return _unzigzag(self.u64(what))

    def boolean(self, what: str) -> bool:
        value = self.u8(what)
        if value > 1:
            raise self.error(f"{what} is {value}, which is neither 0 (no) nor 1 (yes)", self.offset - 1)
        return value == 1

    def option(self, what: str) -> bool:
        """Whether a value follows."""
        value = self.u8(what)
        if value > 1:
            raise self.error(f"{what} is marked {value}, which is neither 0 (absent) nor 1 (present)", self.offset - 1)
        return value == 1

    def variant(self, count: int, what: str) -> int:
        """The index of an enum that has ``count`` variants."""
        start = self.offset
        value = self.u32(what)
        if value >= count:
            raise self.error(f"{what} is of kind {value}; kinds 0 to {count - 1} are known here", start)
        return value

    def view(self, what: str) -> memoryview:
        """A byte sequence as a window into the input."""
        start = self.offset
        length = self.u64(f"the length of {what}")
        if length > self.remaining:
            raise self.error(f"{what} claims {length} bytes, but only {self.remaining} are left", start)
        return self.take(length, what)

    def byte_string(self, what: str) -> bytes:
        return bytes(self.view(what))

    def string(self, what: str) -> str:
        start = self.offset
        raw = self.view(what)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise self.error(f"{what} is not UTF-8", start) from None

    def count(self, least_bytes: int, what: str) -> int:
        """The count of a sequence or map whose items have at least ``least_bytes`` bytes each (1 or more)."""
        start = self.offset
        value = self.u64(f"the count of {what}")
        if value > self.remaining // least_bytes:
            raise self.error(f"{value} {what} are announced, but only {self.remaining} bytes are left", start)
        return value

    def end(self, what: str) -> None:
        """Checks that everything was taken."""
        if self.remaining:
            raise self.error(f"{self.remaining} bytes too many behind {what}")


class Writer:
    """Appends values to a growing buffer; the mirror of Reader. A value that its type can't hold is a bug:
    ValueError.
    """

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __len__(self) -> int:
        return len(self._buffer)

    def getvalue(self) -> bytes:
        return bytes(self._buffer)

    def raw(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes without a length before them."""
        self._buffer += data

    def u8(self, value: int) -> None:
        self._buffer.append(value)

    def _varint(self, value: int, largest: int) -> None:
        if not 0 <= value <= largest:
            raise ValueError(f"{value} is not between 0 and {largest}")
        while value > 0x7F:
            self._buffer.append(value & 0x7F | 0x80)
            value >>= 7
        self._buffer.append(value)

    def u32(self, value: int) -> None:
        self._varint(value, U32_MAX)

    def u64(self, value: int) -> None:
        self._varint(value, U64_MAX)

    def u64_padded(self, value: int) -> None:
        """A varint below 2^63 with one zero group more than it needs: another spelling of the same number."""
        self._varint(value, U64_MAX >> 1)
        self._buffer[-1] |= 0x80
        self._buffer.append(0)

    def i32(self, value: int) -> None:
        self._varint(_zigzag(value), U32_MAX)

    def i64(self, value: int) -> None:
        self._varint(_zigzag(value), U64_MAX)

    def boolean(self, value: bool) -> None:
        self._buffer.append(1 if value else 0)

    def byte_string(self, value: bytes | bytearray | memoryview) -> None:
        self.u64(len(value))
        self._buffer += value

    def string(self, value: str) -> None:
        self.byte_string(value.encode("utf-8"))


def is_padded(encoded: memoryview) -> bool:
    """Whether a varint as it stood in the input was longer than it needed to be."""
    return len(encoded) > 1 and encoded[-1] == 0


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _unzigzag(value: int) -> int:
    return value >> 1 if not value & 1 else -((value + 1) >> 1)
