"""READDIR, READDIRPLUS.

Offsets are the host file system's own cookies (d_off), as virtiofsd hands them out. A directory that was half read when its guest
moved here has the rest of its entries with it (DirStream.carried): these are served first, by the source's cookies.
"""

from libc.errno cimport EBADF, EINVAL, ENOENT, ENOTDIR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strcmp, strlen

from ferryfs.engine.attrs cimport find_child
from ferryfs.engine.fuse_abi cimport Dirent, EntryOut, ReadIn
from ferryfs.engine.handles cimport HANDLE_DIR, DirStream, Handle, handle_get, handle_put
from ferryfs.engine.inodes cimport Inode, inode_put
from ferryfs.engine.request cimport reply
from ferryfs.engine.server cimport Request, Server
from ferryfs.engine.sys cimport SYS_getdents64, lseek, syscall
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock


cdef enum:
    SEEK_SET = 0
    # struct linux_dirent64: d_ino, d_off, d_reclen, d_type, d_name
    DENT_OFF = 8
    DENT_RECLEN = 16
    DENT_TYPE = 18
    DENT_NAME = 19
    # Read from the host at a time. An entry takes 24 + its name there and more in an answer, so this is never much too little.
    DENTS_AT_ONCE = 32 * 1024
    FULL = 1                    # put_entry: no room for this one


cdef int put_entry(
    Request *request, Handle *handle, uint64_t ino, uint64_t offset, uint32_t kind, const char *name, bint plus, uint32_t limit
) noexcept nogil:
    """Appends one entry to the answer, with its attributes for READDIRPLUS; 0, FULL, or -errno.

    An entry that can't be looked up (it is gone, or not ours to see) is given without a nodeid: the guest asks when it wants it.
    """
    cdef Server *server = request.server
    cdef char padding[8]
    cdef Dirent dirent
    cdef EntryOut entry
    cdef Inode *child = NULL
    cdef uint32_t length = <uint32_t>strlen(name)
    cdef uint32_t padded = (length + 7) & ~<uint32_t>7
    cdef uint32_t size = sizeof(Dirent) + padded + (sizeof(EntryOut) if plus else 0)
    if size > limit - request.reply_length:
        return FULL
    if plus:
        memset(&entry, 0, sizeof(entry))
        if strcmp(name, ".") != 0 and strcmp(name, "..") != 0:
            if find_child(server, handle.inode, handle.fd, name, &entry, &child) < 0:
                memset(&entry, 0, sizeof(entry))
            else:
                ino = entry.attr.ino
        # The room was checked for the whole entry above, so none of these replies can fail and strand a lookup.
        reply(request, &entry, sizeof(entry))
        if child != NULL:
            inode_put(&server.inodes, child)
    dirent.ino = ino
    dirent.off = offset
    dirent.namelen = length
    dirent.type = kind
    reply(request, &dirent, sizeof(dirent))
    reply(request, name, length)
    memset(padding, 0, sizeof(padding))
    return reply(request, padding, padded - length)


cdef int serve_carried(Request *request, Handle *handle, uint64_t *offset, bint plus, uint32_t limit) noexcept nogil:
    """Entries behind `offset` that came with the migration: 1 when the answer ends with them, 0 when the directory itself goes on.

    `offset` is the cookie of the entry before; the last carried cookie is followed by the end of the directory.
    """
    cdef DirStream *dir = handle.dir
    cdef uint32_t i = 0
    if dir.carried_count == 0 or offset[0] == 0:
        return 0
    # carried[0] stands for the place itself (its cookie is where the guest had got to); its name is empty.
    while i < dir.carried_count and dir.carried[i].cookie != offset[0]:
        i += 1
    if i == dir.carried_count:
        return 0
    i += 1
    while i < dir.carried_count:
        if put_entry(
            request, handle, dir.carried[i].ino, dir.carried[i].cookie, dir.carried[i].type, dir.carried[i].name, plus, limit
        ) != 0:
            break
        i += 1
    return 1


cdef int fill(Request *request, Handle *handle, uint64_t offset, bint plus, uint32_t limit) noexcept nogil:
    """Fills the answer from the host's directory; under the stream's lock. 0 or -errno."""
    cdef DirStream *dir = handle.dir
    cdef uint8_t *buffer = request.scratch
    cdef uint64_t ino = 0
    cdef uint64_t following = 0
    cdef uint16_t record = 0
    cdef long got
    cdef long at
    cdef int result
    if serve_carried(request, handle, &offset, plus, limit):
        return 0
    if dir.position != <int64_t>offset:
        if lseek(handle.fd, <int64_t>offset, SEEK_SET) < 0:
            return -errno
        dir.position = <int64_t>offset
    while True:
        got = syscall(SYS_getdents64, handle.fd, buffer, <size_t>DENTS_AT_ONCE)
        if got < 0:
            dir.position = -1
            # The directory was removed while it was open: nothing is left in it.
            return 0 if errno == ENOENT or request.reply_length > 0 else -errno
        if got == 0:
            return 0
        at = 0
        while at < got:
            memcpy(&ino, buffer + at, sizeof(ino))
            memcpy(&following, buffer + at + DENT_OFF, sizeof(following))
            memcpy(&record, buffer + at + DENT_RECLEN, sizeof(record))
            result = put_entry(
                request, handle, ino, following, buffer[at + DENT_TYPE], <const char *>buffer + at + DENT_NAME, plus, limit
            )
            if result != 0:
                # The fd stands behind what was read from the host; the guest goes on behind what it was given.
                dir.position = -1
                return 0 if result == FULL and request.reply_length > 0 else -EINVAL
            dir.position = <int64_t>following
            at += record
        # One batch is a good answer; more only while there is plenty of room, so that large buffers are used.
        if limit - request.reply_length < DENTS_AT_ONCE:
            return 0


cdef int read_dir(Request *request, bint plus) noexcept nogil:
    cdef Server *server = request.server
    cdef Handle *handle
    cdef ReadIn args
    cdef uint32_t limit
    cdef int result
    memcpy(&args, request.args, sizeof(args))
    handle = handle_get(&server.handles, args.fh)
    if handle == NULL:
        return -EBADF
    if not handle.state & HANDLE_DIR:
        result = -ENOTDIR
    elif handle.fd < 0:
        result = -handle.error
    else:
        limit = args.size if args.size < request.room else request.room
        pthread_mutex_lock(&handle.dir.lock)
        result = fill(request, handle, args.offset, plus, limit)
        pthread_mutex_unlock(&handle.dir.lock)
    handle_put(&server.handles, &server.inodes, handle)
    return result


cdef int op_readdir(Request *request) noexcept nogil:
    return read_dir(request, False)


cdef int op_readdirplus(Request *request) noexcept nogil:
    return read_dir(request, True)
