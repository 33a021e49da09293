# Acting as the guest's user for one request.
from libc.stdint cimport uint32_t

from ferryfs.engine.server cimport Request, Server


cdef struct Creds:
    int uid_changed
    int gid_changed
    int groups_changed


cdef int settle(Request *request) noexcept nogil
cdef int creds_enter(const Server *server, Creds *creds, uint32_t uid, uint32_t gid, bint has_group, uint32_t group) noexcept nogil
cdef void creds_keep_access() noexcept nogil
cdef void creds_leave(const Server *server, const Creds *creds) noexcept nogil
cdef bint fsetid_drop() noexcept nogil
cdef bint has_capability_name(const Server *server) noexcept nogil
cdef int capability_drop(const Server *server, int fd) noexcept nogil
cdef void fsetid_restore(bint dropped) noexcept nogil
