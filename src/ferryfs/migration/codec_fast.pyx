"""``codec.decode`` compiled, for states that are as they should be. Of anything else it says so, and ``codec`` finds the words."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, uint8_t, uint64_t

from ferryfs.migration.state import (
    ByHandle, FileHandle, FullPath, Handle, Inode, Invalid, MountPath, Options, Path, RootNode, StateV1, StateV2,
)


cdef class _Odd(Exception):
    """Leaves the decoder: not a state, or a strange one."""


cdef class _Reader:
    cdef const uint8_t *data
    cdef size_t end
    cdef size_t at
    cdef bint padded                # whether the last number was longer than it need be

    cdef uint64_t number(self) except? 0xfedcba:
        cdef uint64_t value = 0
        cdef uint8_t digit = 0
        cdef int shift = 0
        while True:
            if self.at >= self.end or shift > 56:
                # Larger numbers are rare enough for the other decoder.
                raise _Odd
            digit = self.data[self.at]
            self.at += 1
            value |= <uint64_t>(digit & 0x7f) << shift
            if digit < 0x80:
                self.padded = digit == 0 and shift > 0
                return value
            shift += 7

    cdef int32_t signed(self) except? -77:
        cdef uint64_t value = self.number()
        if value > 0xffffffff:
            raise _Odd
        return <int32_t>((value >> 1) ^ (0 - (value & 1)))

    cdef size_t length(self) except? 0xfedcba:
        cdef uint64_t value = self.number()
        if value > self.end - self.at:
            raise _Odd
        return value

    cdef bint flag(self) except? -1:
        cdef uint64_t value = self.number()
        if value > 1 or self.padded:
            raise _Odd
        return value

    cdef object text(self):
        cdef size_t length = self.length()
        # SAFETY: length() has checked that so many bytes are left.
        found = PyUnicode_DecodeUTF8(<const char *>self.data + self.at, length, NULL)
        self.at += length
        return found

    cdef object handle(self):
        cdef uint64_t mount = self.number()
        cdef int32_t kind = self.signed()
        cdef size_t length = self.length()
        # SAFETY: as in text().
        found = PyBytes_FromStringAndSize(<const char *>self.data + self.at, length)
        self.at += length
        return FileHandle(mount, kind, found)

    cdef object location(self):
        cdef uint64_t kind = self.number()
        if kind == 1:
            parent = self.number()
            return Path(parent, self.text())
        if kind == 0:
            return RootNode()
        if kind == 2:
            return Invalid()
        if kind == 3:
            return FullPath(self.text())
        if kind == 4:
            return ByHandle(self.handle())
        raise _Odd


def decode(data):
    """(state, where it ended, whether a trailer is promised), or None when ``codec.decode`` must have a look."""
    cdef const uint8_t[::1] view = data
    cdef _Reader reader = _Reader()
    cdef uint64_t count
    cdef uint64_t version
    cdef bint promised
    if view.shape[0] == 0:
        return None
    reader.data = &view[0]
    reader.end = view.shape[0]
    reader.at = 0
    try:
        version = reader.number()
        if version > 1:
            return None
        count = reader.number()
        promised = reader.padded
        inodes = []
        for _ in range(count):
            number = reader.number()
            references = reader.number()
            location = reader.location()
            inodes.append(Inode(number, references, location, reader.handle() if reader.flag() else None))
        next_inode = reader.number()
        count = reader.number()
        handles = []
        for _ in range(count):
            number = reader.number()
            inode = reader.number()
            if reader.number() != 0:
                return None
            handles.append(Handle(number, inode, reader.signed()))
        next_handle = reader.number()
        options = Options(reader.flag(), reader.flag(), reader.flag(), reader.flag())
        state = StateV1(tuple(inodes), next_inode, tuple(handles), next_handle, options)
        if version == 0:
            return state, reader.at, promised
        count = reader.number()
        mounts = []
        for _ in range(count):
            number = reader.number()
            mounts.append(MountPath(number, reader.text()))
        return StateV2(state, tuple(mounts)), reader.at, promised
    except (_Odd, UnicodeDecodeError):
        return None
