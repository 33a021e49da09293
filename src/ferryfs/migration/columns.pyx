# cython: language_level=3
"""Columns of numbers between arrays and the stream's bytes, at memory speed: a million inodes are a handful of columns.

``trailer_identities`` says what they mean. Numbers in the stream are little-endian.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memchr, memset

from array import array

from ferryfs.migration.held cimport Held
from ferryfs.migration.columns cimport View, item, put_item, view_item

cdef enum:
    NAME_MAX_BYTES = 4095       # as state.MAX_NAME_BYTES


# Cleared by the collector of cycles, its bytes would go before it.
@cython.no_gc_clear
@cython.final
cdef class Column:
    """Numbers as they stand in a stream, ``base`` more than each item of ``width`` bytes: a sequence of int, without a copy.

    ``signed``: they are signed numbers, with 2**63 added.
    """

    def __cinit__(self, data, int width, uint64_t base, Py_ssize_t count, bint signed=False):
        """``width``: 0 (then ``data`` is empty), 1, 2, 4 or 8. OverflowError: a number beyond 64 bits."""
        self.held = Held(data)
        if self.held.length != width * count or width not in (0, 1, 2, 4, 8):
            raise ValueError("the data is not as long as so many numbers")
        self.view.at = self.held.at
        self.view.width = width
        self.view.base = base
        self.view.count = count
        self.view.signed = signed
        if not stays_in_range(&self.view):
            raise OverflowError

    def __len__(self):
        return self.view.count

    def __getitem__(self, index):
        cdef Py_ssize_t at
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.view.count))]
        at = index
        if not 0 <= at < self.view.count:
            raise IndexError(index)
        return <int64_t>view_item(&self.view, at) if self.view.signed else view_item(&self.view, at)

    def __iter__(self):
        return iter(self.numbers())

    def __contains__(self, number):
        return number in self.numbers()

    def index(self, number):
        """Where it is first. ValueError: nowhere."""
        return self.numbers().index(number)

    def __eq__(self, other):
        if not isinstance(other, (Column, array)):
            return NotImplemented
        return self.numbers() == (other.numbers() if isinstance(other, Column) else other)

    __hash__ = None

    def numbers(self):
        """All of them, as array("Q"), or array("q") of signed ones."""
        cdef Py_ssize_t i
        cdef uint64_t[:] into
        found = array("q" if self.view.signed else "Q", bytes(8 * self.view.count))
        if self.view.count:
            into = memoryview(found).cast("B").cast("Q")
            with nogil:
                for i in range(self.view.count):
                    into[i] = view_item(&self.view, i)
        return found


cdef bint stays_in_range(const View *view) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint64_t room = ~view.base
    if view.width == 0 or (view.width < 8 and room >> (8 * view.width)):
        return True
    for i in range(view.count):
        if item(view.at + i * view.width, view.width) > room:
            return False
    return True


cdef View view_of(object values) except *:
    """Of a Column, or of an array("Q") or array("q"), which has to be kept as it is meanwhile."""
    cdef View view
    cdef const uint8_t[:] data
    if isinstance(values, Column):
        return (<Column>values).view
    data = memoryview(values).cast("B") if len(values) else b""
    view.at = &data[0] if data.shape[0] else NULL
    view.width = 8
    view.base = 0
    view.count = len(values)
    view.signed = False
    return view


def narrow(values, int width, uint64_t base):
    """The bytes of a Column: each number less ``base``, which must fit into ``width`` bytes."""
    cdef View view = view_of(values)
    cdef Py_ssize_t i
    packed = bytearray(width * view.count)
    cdef uint8_t[:] into
    if len(packed) == 0:
        return b""
    into = packed
    with nogil:
        for i in range(view.count):
            put_item(&into[i * width], view_item(&view, i) - base, width)
    return packed


def bounds(values):
    """The smallest and the largest; (0, 0) of none."""
    cdef View view = view_of(values)
    cdef uint64_t least = 0
    cdef uint64_t most = 0
    cdef uint64_t number
    cdef Py_ssize_t i
    if view.count:
        least = most = view_item(&view, 0)
        with nogil:
            for i in range(view.count):
                number = view_item(&view, i)
                least = min(least, number)
                most = max(most, number)
    return least, most


def add_up(values, uint64_t total):
    """Whether the sum is ``total``; one beyond 64 bits is not."""
    cdef View view = view_of(values)
    cdef uint64_t rest = total
    cdef uint64_t number
    cdef Py_ssize_t i
    cdef bint beyond = False
    with nogil:
        for i in range(view.count):
            number = view_item(&view, i)
            if number > rest:
                beyond = True
                break
            rest -= number
    return not beyond and rest == 0


def tally(const uint8_t[:] values):
    """How often each byte is there: 256 numbers."""
    cdef uint64_t counts[256]
    cdef Py_ssize_t i
    # SAFETY: the array has as many bytes.
    memset(counts, 0, sizeof(counts))
    with nogil:
        for i in range(values.shape[0]):
            counts[values[i]] += 1
    return [counts[i] for i in range(256)]


def biased(values):
    """array("q") to array("Q") in the same order, and back: 2**63 more, or less."""
    cdef Py_ssize_t i
    cdef uint64_t[:] turned
    if isinstance(values, Column):
        values = values.numbers()
    found = array("Q" if values.typecode == "q" else "q")
    found.frombytes(memoryview(values).cast("B"))
    if len(found):
        turned = memoryview(found).cast("B").cast("Q")
        with nogil:
            for i in range(turned.shape[0]):
                turned[i] ^= <uint64_t>1 << 63
    return found


def is_ascending(values):
    """Whether each is larger than the one before."""
    cdef View view = view_of(values)
    cdef uint64_t before = 0
    cdef uint64_t number
    cdef Py_ssize_t i
    cdef bint fine = True
    with nogil:
        for i in range(view.count):
            number = view_item(&view, i)
            if i > 0 and number <= before:
                fine = False
                break
            before = number
    return fine


def first_bad_name(lengths, const uint8_t[:] names):
    """Index of the first name that could not be an entry of a directory, -1 when there is none; an empty one means no name.

    ``names`` has them one behind the other, and as many bytes as ``lengths`` together.
    """
    cdef View view = view_of(lengths)
    cdef Py_ssize_t i
    cdef Py_ssize_t found = -1
    cdef uint64_t at = 0
    cdef const uint8_t *text
    cdef uint64_t length
    with nogil:
        for i in range(view.count):
            length = view_item(&view, i)
            if length == 0:
                continue
            # SAFETY: the caller has seen to it that the lengths together are those of ``names``.
            text = &names[at]
            at += length
            if (
                length > NAME_MAX_BYTES or memchr(text, c'/', length) != NULL or memchr(text, 0, length) != NULL
                or (text[0] == c'.' and (length == 1 or (length == 2 and text[1] == c'.')))
            ):
                found = i
                break
    return found
