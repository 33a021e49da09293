# Reading a state's bytes without objects: each function is 0, or -1 for what it does not take. A cursor never leaves its bytes.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

from ferryfs.engine.sys cimport MAX_HANDLE_SIZE


cdef enum:
    NAME_MAX_BYTES = 4095       # as state.MAX_NAME_BYTES


cdef struct Cursor:
    const uint8_t *data
    uint64_t length
    uint64_t at


# A file handle as it stands in the stream.
cdef struct ToldHandle:
    const uint8_t *bytes
    uint64_t mount
    int32_t type
    uint8_t size


cdef inline int read_number(Cursor *cursor, uint64_t *value) noexcept nogil:
    """A varint."""
    cdef uint8_t digit
    cdef int shift = 0
    value[0] = 0
    while shift < 64:
        if cursor.at >= cursor.length:
            return -1
        digit = cursor.data[cursor.at]
        cursor.at += 1
        if shift == 63 and digit > 1:
            return -1
        value[0] |= <uint64_t>(digit & 0x7f) << shift
        if digit < 0x80:
            return 0
        shift += 7
    return -1


cdef inline int read_extent(Cursor *cursor, const uint8_t **bytes, uint64_t *length) noexcept nogil:
    """A length and that many bytes."""
    if read_number(cursor, length) < 0 or length[0] > cursor.length - cursor.at:
        return -1
    # SAFETY: at + length is within the cursor's bytes, by the line above.
    bytes[0] = cursor.data + cursor.at
    cursor.at += length[0]
    return 0


cdef inline int read_handle(Cursor *cursor, ToldHandle *into) noexcept nogil:
    cdef uint64_t zigzag = 0
    cdef uint64_t length = 0
    if read_number(cursor, &into.mount) < 0 or read_number(cursor, &zigzag) < 0 or zigzag >> 32:
        return -1
    into.type = <int32_t>(<uint32_t>(zigzag >> 1) ^ (0 - <uint32_t>(zigzag & 1)))
    if read_extent(cursor, &into.bytes, &length) < 0 or length == 0 or length > MAX_HANDLE_SIZE:
        return -1
    into.size = <uint8_t>length
    return 0


cdef inline bint is_utf8(const uint8_t *text, uint64_t length) noexcept nogil:
    """Whether Python (and the reference daemon) would take these bytes for UTF-8: no overlong forms, no surrogates (RFC 3629)."""
    cdef uint64_t i = 0
    cdef uint8_t lead
    cdef int more
    cdef uint8_t low
    cdef uint8_t high
    cdef uint64_t eight = 0
    while i < length:
        while i + 8 <= length:
            # SAFETY: eight bytes are left, by the line above.
            memcpy(&eight, text + i, 8)
            if eight & <uint64_t>0x8080808080808080:
                break
            i += 8
        if i >= length:
            break
        lead = text[i]
        i += 1
        if lead < 0x80:
            continue
        low, high = 0x80, 0xbf
        if 0xc2 <= lead <= 0xdf:
            more = 1
        elif 0xe0 <= lead <= 0xef:
            more = 2
            low = 0xa0 if lead == 0xe0 else 0x80
            high = 0x9f if lead == 0xed else 0xbf
        elif 0xf0 <= lead <= 0xf4:
            more = 3
            low = 0x90 if lead == 0xf0 else 0x80
            high = 0x8f if lead == 0xf4 else 0xbf
        else:
            return False
        while more > 0:
            if i >= length or not low <= text[i] <= high:
                return False
            low, high = 0x80, 0xbf
            i += 1
            more -= 1
    return True


cdef inline bint is_name(const uint8_t *bytes, uint64_t size) noexcept nogil:
    """Whether these bytes, which have no '/', no NUL, and are UTF-8, can be the name of a directory entry."""
    if size == 0 or size > NAME_MAX_BYTES:
        return False
    return not (bytes[0] == c'.' and (size == 1 or (size == 2 and bytes[1] == c'.')))


cdef inline int read_path(Cursor *cursor, const uint8_t **bytes, uint64_t *length) noexcept nogil:
    """A path from the root, in UTF-8, each component of which is a name."""
    cdef uint64_t start = 0
    cdef uint64_t i
    if read_extent(cursor, bytes, length) < 0 or memchr(bytes[0], 0, length[0]) != NULL or not is_utf8(bytes[0], length[0]):
        return -1
    for i in range(length[0]):
        if bytes[0][i] == c'/':
            if not is_name(bytes[0] + start, i - start):
                return -1
            start = i + 1
    return 0 if is_name(bytes[0] + start, length[0] - start) else -1


cdef inline int read_name(Cursor *cursor, const uint8_t **bytes, uint16_t *length) noexcept nogil:
    """A name of one component, in UTF-8."""
    cdef uint64_t size = 0
    if read_extent(cursor, bytes, &size) < 0 or not is_name(bytes[0], size):
        return -1
    length[0] = <uint16_t>size
    if memchr(bytes[0], c'/', size) != NULL or memchr(bytes[0], 0, size) != NULL or not is_utf8(bytes[0], size):
        return -1
    return 0
