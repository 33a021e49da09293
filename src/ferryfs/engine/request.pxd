# What every operation does with its request: take arguments, check names, answer.
from libc.errno cimport EINVAL, ENAMETOOLONG
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, strcmp

from ferryfs.engine.fuse_abi cimport FUSE_NAME_MAX
from ferryfs.engine.server cimport OUT_HEADER, Request
from ferryfs.ring.chain cimport chain_write


cdef inline const char *take_string(Request *request, uint32_t *position) noexcept nogil:
    """The NUL-terminated string at `position` of the arguments, which moves behind it; NULL when no NUL follows."""
    cdef const char *start = request.args + position[0]
    cdef const char *end
    if position[0] >= request.args_length:
        return NULL
    end = <const char *>memchr(start, 0, request.args_length - position[0])
    if end == NULL:
        return NULL
    position[0] += <uint32_t>(end - start) + 1
    return start


cdef inline int check_name(const char *name) noexcept nogil:
    """Whether `name` is one component below a directory: 0, or -EINVAL (NULL, empty, '.', '..', with '/'), -ENAMETOOLONG."""
    cdef uint32_t length = 0
    if name == NULL or name[0] == 0 or strcmp(name, ".") == 0 or strcmp(name, "..") == 0:
        return -EINVAL
    while name[length] != 0:
        if name[length] == c'/':
            return -EINVAL
        length += 1
    return -ENAMETOOLONG if length > FUSE_NAME_MAX else 0


cdef inline int reply(Request *request, const void *data, uint32_t length) noexcept nogil:
    """Appends to the answer; 0, or -EINVAL when the guest left too little room for it."""
    if length > request.room - request.reply_length:
        return -EINVAL
    chain_write(request.chain, OUT_HEADER + <uint64_t>request.reply_length, data, length)
    request.reply_length += length
    return 0
