"""LOOKUP, FORGET, BATCH_FORGET."""

from libc.errno cimport EINVAL, ENOENT
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ferryfs.engine.attrs cimport reply_child
from ferryfs.engine.fuse_abi cimport EntryOut, ForgetOne
from ferryfs.engine.inodes cimport Inode, inode_forget, inode_get_fd, inode_put
from ferryfs.engine.request cimport check_name, reply, take_string
from ferryfs.engine.server cimport Request


cdef int op_lookup(Request *request) noexcept nogil:
    cdef uint32_t position = 0
    cdef const char *name = take_string(request, &position)
    cdef EntryOut negative
    cdef Inode *parent = NULL
    cdef int fd
    cdef int result = check_name(name)
    if result < 0:
        return result
    fd = inode_get_fd(&request.server.inodes, request.head.nodeid, &parent)
    if fd < 0:
        return fd
    result = reply_child(request, parent, fd, name, False)
    inode_put(&request.server.inodes, parent)
    if result == -ENOENT and (
        request.server.settings.negative_seconds or request.server.settings.negative_nanoseconds
    ):
        # nodeid 0: "there is none, and you may remember that".
        memset(&negative, 0, sizeof(negative))
        negative.entry_valid = request.server.settings.negative_seconds
        negative.entry_valid_nsec = request.server.settings.negative_nanoseconds
        return reply(request, &negative, sizeof(negative))
    return result


cdef int op_forget(Request *request) noexcept nogil:
    cdef uint64_t count = 0
    memcpy(&count, request.args, sizeof(count))
    inode_forget(&request.server.inodes, request.head.nodeid, count)
    return 0


cdef int op_batch_forget(Request *request) noexcept nogil:
    cdef ForgetOne one
    cdef uint32_t count = 0
    cdef uint32_t i
    memcpy(&count, request.args, sizeof(count))
    if count > (request.args_length - 8) // sizeof(ForgetOne):
        return -EINVAL
    for i in range(count):
        memcpy(&one, request.args + 8 + i * sizeof(ForgetOne), sizeof(one))
        inode_forget(&request.server.inodes, one.nodeid, one.nlookup)
    return 0
