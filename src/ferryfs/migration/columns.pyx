# cython: language_level=3
"""Columns of numbers between arrays and the stream's bytes, at memory speed: a million inodes are a handful of columns.

``trailer_identities`` says what they mean. Numbers in the stream are little-endian.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr, memcpy

import sys
from array import array

cdef bint SWAP = sys.byteorder == "big"

cdef enum:
    NAME_MAX_BYTES = 4095       # as state.MAX_NAME_BYTES


cdef inline uint64_t item(const uint8_t *at, int width) noexcept nogil:
    """The number of ``width`` bytes that stands at ``at``."""
    cdef uint64_t value = 0
    cdef int i
    if not SWAP:
        # SAFETY: width is at most 8, and the caller has width bytes at ``at``.
        memcpy(&value, at, width)
        return value
    for i in range(width):
        value |= <uint64_t>at[i] << (8 * i)
    return value


cdef inline void put_item(uint8_t *at, uint64_t value, int width) noexcept nogil:
    cdef int i
    if not SWAP:
        # SAFETY: as in item().
        memcpy(at, &value, width)
        return
    for i in range(width):
        at[i] = <uint8_t>(value >> (8 * i))


def widen(const uint8_t[:] data, int width, uint64_t base):
    """The numbers of ``width`` bytes (1, 2, 4 or 8), each ``base`` larger, as array("Q"). OverflowError beyond 64 bits."""
    cdef Py_ssize_t count = data.shape[0] // width
    cdef Py_ssize_t i
    cdef bint beyond = False
    found = array("Q", bytes(8 * count))
    cdef uint64_t[:] into
    if count == 0:
        return found
    into = found
    with nogil:
        # A call for each width: the compiler then knows it.
        if width == 1:
            for i in range(count):
                beyond |= put_widened(&into[i], item(&data[i], 1), base)
        elif width == 2:
            for i in range(count):
                beyond |= put_widened(&into[i], item(&data[2 * i], 2), base)
        elif width == 4:
            for i in range(count):
                beyond |= put_widened(&into[i], item(&data[4 * i], 4), base)
        else:
            for i in range(count):
                beyond |= put_widened(&into[i], item(&data[8 * i], 8), base)
    if beyond:
        raise OverflowError
    return found


cdef inline bint put_widened(uint64_t *into, uint64_t value, uint64_t base) noexcept nogil:
    into[0] = value + base
    return into[0] < base


def narrow(const uint64_t[:] values, int width, uint64_t base):
    """The opposite of ``widen``: each number less ``base``, which must fit into ``width`` bytes."""
    cdef Py_ssize_t count = values.shape[0]
    cdef Py_ssize_t i
    packed = bytearray(width * count)
    cdef uint8_t[:] into
    if len(packed) == 0:
        return b""
    into = packed
    with nogil:
        for i in range(count):
            put_item(&into[i * width], values[i] - base, width)
    return packed


def bounds(const uint64_t[:] values):
    """The smallest and the largest; (0, 0) of none."""
    cdef uint64_t least = 0
    cdef uint64_t most = 0
    cdef Py_ssize_t i
    if values.shape[0]:
        least = most = values[0]
        with nogil:
            for i in range(values.shape[0]):
                least = values[i] if values[i] < least else least
                most = values[i] if values[i] > most else most
    return least, most


def add_up(const uint64_t[:] values, uint64_t total):
    """Whether the sum is ``total``; one beyond 64 bits is not."""
    cdef uint64_t rest = total
    cdef Py_ssize_t i
    with nogil:
        for i in range(values.shape[0]):
            if values[i] > rest:
                break
            rest -= values[i]
        else:
            i = values.shape[0]
    return i == values.shape[0] and rest == 0


def biased(values):
    """array("q") to array("Q") in the same order, and back: 2**63 more, or less."""
    cdef Py_ssize_t i
    cdef uint64_t[:] turned
    found = array("Q" if values.typecode == "q" else "q")
    found.frombytes(memoryview(values).cast("B"))
    if len(found):
        turned = memoryview(found).cast("B").cast("Q")
        with nogil:
            for i in range(turned.shape[0]):
                turned[i] ^= <uint64_t>1 << 63
    return found


def is_ascending(const uint64_t[:] values):
    """Whether each is larger than the one before."""
    cdef Py_ssize_t i
    cdef bint fine = True
    with nogil:
        for i in range(1, values.shape[0]):
            if values[i] <= values[i - 1]:
                fine = False
                break
    return fine


def first_bad_name(const uint64_t[:] lengths, const uint8_t[:] names):
    """Index of the first name that could not be an entry of a directory, -1 when there is none; an empty one means no name.

    ``names`` has them one behind the other, and as many bytes as ``lengths`` together.
    """
    cdef Py_ssize_t i
    cdef Py_ssize_t found = -1
    cdef uint64_t at = 0
    cdef const uint8_t *text
    cdef uint64_t length
    with nogil:
        for i in range(lengths.shape[0]):
            length = lengths[i]
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
