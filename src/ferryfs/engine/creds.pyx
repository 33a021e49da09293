"""Credentials of one thread. Raw system calls only: glibc's wrappers would change all threads of the process.

Only the effective ids change, so the way back is always open: the saved ids and the permitted capabilities stay.
"""

from libc.errno cimport EACCES, ENODATA, EOPNOTSUPP, EPERM, errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport abort

from ferryfs.engine.server cimport INIT_CREATE_SUPP_GROUP, INIT_HANDLE_KILLPRIV_V2, Request, Server
from ferryfs.engine.sys cimport (
    CLONE_FS, SYS_capget, SYS_capset, SYS_setgroups, SYS_setresgid, SYS_setresuid, fchdir, fgetxattr, fremovexattr, syscall,
    umask, unshare,
)
from ferryfs.engine.threads cimport sched_yield


cdef enum:
    CAPABILITY_VERSION_3 = 0x20080522
    CAP_DAC_OVERRIDE = 1
    CAP_FOWNER = 3
    CAP_FSETID = 4
    TRIES = 1000

cdef struct CapHeader:
    uint32_t version
    int pid

cdef struct CapData:
    uint32_t effective
    uint32_t permitted
    uint32_t inheritable


cdef bint change_effective(uint32_t bit, bint on) noexcept nogil:
    """Sets or clears one capability (below 32) of this thread's effective set; whether it was changed.

    It fails for lack of memory only. What this thread does next depends on it: like creds_leave it does not go on without.
    """
    cdef CapHeader header
    cdef CapData data[2]
    cdef int _tries
    header.version = CAPABILITY_VERSION_3
    header.pid = 0
    for _tries in range(TRIES):
        if syscall(SYS_capget, &header, data) == 0:
            if ((data[0].effective >> bit) & 1) == <uint32_t>on or not data[0].permitted & (<uint32_t>1 << bit):
                return False
            data[0].effective ^= <uint32_t>1 << bit
            if syscall(SYS_capset, &header, data) == 0:
                return True
        sched_yield()
    abort()


cdef int settle(Request *request) noexcept nogil:
    """Gives this thread a working directory and a umask of its own, once; 0 or -errno.

    Requests set the one, and xattr calls are relative to the other, which is /proc/self/fd. A thread without them (no memory) must
    do neither: it would change the whole process, and "12" would be a file of that name in whatever directory that is in.
    """
    if not request.settled:
        if unshare(CLONE_FS) < 0 or fchdir(request.server.proc_fd) < 0:
            return -errno
        umask(0)
        request.settled = True
    return 0


cdef int creds_enter(
    const Server *server, Creds *creds, uint32_t uid, uint32_t gid, bint has_group, uint32_t group
) noexcept nogil:
    """Takes on the ids (the host's) and the one supplementary group that the guest sent; 0 or -errno with nothing changed.

    Root's ids mean "as the daemon". A guest that doesn't send groups gets CAP_DAC_OVERRIDE, else a user could not create where
    only a supplementary group may: the guest's kernel has checked that already (as virtiofsd does).
    """
    cdef int error
    creds.uid_changed = 0
    creds.gid_changed = 0
    creds.groups_changed = 0
    if has_group:
        if syscall(SYS_setgroups, <size_t>1, &group) < 0:
            if server.own_uid == 0:
                return -errno
        else:
            creds.groups_changed = 1
    # The group first: once the user is another one, the capability to change it is gone.
    if gid != 0 and gid != server.own_gid:
        if syscall(SYS_setresgid, <long>-1, <long>gid, <long>-1) < 0:
            error = -errno
            creds_leave(server, creds)
            return error
        creds.gid_changed = 1
    if uid != 0 and uid != server.own_uid:
        if syscall(SYS_setresuid, <long>-1, <long>uid, <long>-1) < 0:
            error = -errno
            creds_leave(server, creds)
            return error
        creds.uid_changed = 1
        if not server.session.flags & INIT_CREATE_SUPP_GROUP:
            change_effective(CAP_DAC_OVERRIDE, True)
    return 0


cdef void creds_keep_access() noexcept nogil:
    """After creds_enter: what is made is the guest's user's, and what else is done is not checked again.

    For a request that comes without the supplementary group by which the guest's kernel has allowed it.
    """
    change_effective(CAP_DAC_OVERRIDE, True)
    change_effective(CAP_FOWNER, True)


cdef void surely(long number, long first, long second, long third) noexcept nogil:
    """A system call that fails for lack of memory only. Without it this thread must serve nobody any more."""
    cdef int _tries
    for _tries in range(TRIES):
        if syscall(number, first, second, third) == 0:
            return
        sched_yield()
    abort()


cdef void creds_leave(const Server *server, const Creds *creds) noexcept nogil:
    """Back to the daemon's own, which nobody can refuse: the saved ids are ours."""
    if creds.uid_changed:
        surely(SYS_setresuid, -1, server.own_uid, -1)
    if creds.gid_changed:
        surely(SYS_setresgid, -1, server.own_gid, -1)
    if creds.groups_changed:
        surely(SYS_setgroups, 0, 0, 0)


cdef bint fsetid_drop() noexcept nogil:
    """Lets the kernel clear set-user-ID and set-group-ID bits on this thread's next change of a file; for fsetid_restore."""
    return change_effective(CAP_FSETID, False)


cdef void fsetid_restore(bint dropped) noexcept nogil:
    if dropped:
        change_effective(CAP_FSETID, True)


cdef bint has_capability_name(const Server *server) noexcept nogil:
    """Whether file capabilities have another name on the host, so that capability_drop has something to do."""
    return server.policy.capability != NULL and server.session.flags & INIT_HANDLE_KILLPRIV_V2


cdef int capability_drop(const Server *server, int fd) noexcept nogil:
    """Takes the file capabilities of an open file that is about to be changed, as the kernel would if they had their own name on
    the host (--xattrmap); 0 or -errno.

    Only for a guest that leaves it to us (HANDLE_KILLPRIV_V2). It sees to it too, but asks only once whether a file has any:

    1. the guest writes, and remembers that there are none, 2. the host, or another guest, sets some, 3. the guest writes.
    """
    cdef int error
    if not has_capability_name(server):
        return 0
    if fremovexattr(fd, server.policy.capability) == 0 or errno == ENODATA or errno == EOPNOTSUPP:
        return 0
    error = errno
    # An ordinary user's daemon may not change a file's attributes that it has made read-only, but may see that there are none.
    if (error == EACCES or error == EPERM) and fgetxattr(fd, server.policy.capability, NULL, 0) < 0 and errno == ENODATA:
        return 0
    return -error
