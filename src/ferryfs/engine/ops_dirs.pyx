"""READDIR, READDIRPLUS.

Offsets are the host file system's own cookies (d_off), as virtiofsd hands them out. What was read from the host and does not fit
into an answer is kept for the next one, as a C library keeps it for readdir(3): seeking back to it costs the host more than the
entries do (ext4 reads its hash tree anew). That is done where it must be: there is not room for all that a guest may have open, and
each could have 30 KiB. A directory that was half read when its guest
moved here has the rest of its entries with it (DirStream.carried): these are served first, by the source's cookies.
"""

from libc.errno cimport EBADF, EINVAL, ENOENT, ENOTDIR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset, strcmp, strlen

from ferryfs.engine.attrs cimport find_child
from ferryfs.engine.fuse_abi cimport Dirent, EntryOut, ReadIn
from ferryfs.engine.handles cimport (
    HANDLE_DIR, DirStream, Handle, HandleTable, dir_drop_carried, dir_drop_rest, handle_get, handle_put,
)
from ferryfs.engine.inodes cimport Inode, inode_put
from ferryfs.engine.request cimport reply
from ferryfs.engine.server cimport Request, Server
from ferryfs.engine.sys cimport SYS_getdents64, lseek, syscall
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock
from ferryfs.ring.atomics cimport ferry_add_own_u64


cdef enum:
    SEEK_SET = 0
    # struct linux_dirent64: d_ino, d_off, d_reclen, d_type, d_name
    DENT_OFF = 8
    DENT_RECLEN = 16
    DENT_TYPE = 18
    DENT_NAME = 19
    # Read from the host at a time: the most and the least, and between them as much as the guest has room for.
    DENTS_AT_ONCE = 32 * 1024
    DENTS_AT_LEAST = 4096
    # Kept of all directories together: some thousand programs of a guest list directories at the same time.
    KEPT_MAX = 64 << 20
    ENTRY_MAX = 128 + 24 + 1024     # of an answer: fuse_entry_out, fuse_dirent, the longest name that FUSE has
    FULL = 1                    # put_entry: no room for this one


cdef int put_entry(
    Request *request, Handle *handle, uint64_t ino, uint64_t offset, uint32_t kind, const char *name, bint plus, uint32_t limit
) noexcept nogil:
    """Appends one entry to the answer, with its attributes for READDIRPLUS; 0, FULL, or -errno.

    An entry that can't be looked up (it is gone, or not ours to see) is given without a nodeid: the guest asks when it wants it.
    """
    cdef Server *server = request.server
    cdef uint8_t packed[ENTRY_MAX]
    cdef Dirent dirent
    cdef EntryOut entry
    cdef Inode *child = NULL
    cdef uint32_t length = <uint32_t>strlen(name)
    cdef uint32_t padded = (length + 7) & ~<uint32_t>7
    cdef uint32_t at = sizeof(EntryOut) if plus else 0
    cdef uint32_t size = at + sizeof(Dirent) + padded
    if size > ENTRY_MAX:
        return 0                # a guest's kernel gives the whole directory up at such a name
    if size > limit - request.reply_length:
        return FULL
    if plus:
        memset(&entry, 0, sizeof(entry))
        if strcmp(name, ".") != 0 and strcmp(name, "..") != 0:
            if find_child(server, handle.inode, handle.fd, name, &entry, &child) < 0:
                memset(&entry, 0, sizeof(entry))
            else:
                ino = entry.attr.ino
        memcpy(packed, &entry, sizeof(entry))
    dirent.ino = ino
    dirent.off = offset
    dirent.namelen = length
    dirent.type = kind
    memcpy(packed + at, &dirent, sizeof(dirent))
    memcpy(packed + at + sizeof(dirent), name, length)
    memset(packed + at + sizeof(dirent) + length, 0, padded - length)
    # The room was checked for the whole entry above, so this reply can't fail and strand a lookup.
    reply(request, packed, size)
    if child != NULL:
        inode_put(&server.inodes, child)
    return 0


cdef int serve_carried(Request *request, Handle *handle, uint64_t *offset, bint plus, uint32_t limit) noexcept nogil:
    """Entries behind `offset` that came with the migration: 1 when the answer ends with them, 0 when the directory itself goes on.

    `offset` is the cookie of the entry before; the last carried cookie is followed by the end of the directory.
    """
    cdef DirStream *dir = handle.dir
    cdef uint32_t i = 0
    if dir.carried_count == 0:
        return 0
    if offset[0] == 0:
        # From now on the guest has this host's cookies, and an equal one may mean another place.
        dir_drop_carried(dir)
        return 0
    # carried[0] stands for the place itself (its cookie is where the guest had got to); its name is empty. So may others'.
    while i < dir.carried_count and dir.carried[i].cookie != offset[0]:
        i += 1
    if i == dir.carried_count:
        return 0
    i += 1
    while i < dir.carried_count:
        if dir.carried[i].name[0] != 0 and put_entry(
            request, handle, dir.carried[i].ino, dir.carried[i].cookie, dir.carried[i].type, dir.carried[i].name, plus, limit
        ) != 0:
            break
        i += 1
    return 1


cdef int give(
    Request *request, Handle *handle, const uint8_t *dents, uint32_t length, uint32_t *at, bint plus, uint32_t limit
) noexcept nogil:
    """Puts the host's entries from `at` on into the answer, moving `at` and the stream's position; 0, FULL or -errno."""
    cdef uint64_t ino = 0
    cdef uint64_t following = 0
    cdef uint16_t record = 0
    cdef int result
    while at[0] < length:
        memcpy(&ino, dents + at[0], sizeof(ino))
        memcpy(&following, dents + at[0] + DENT_OFF, sizeof(following))
        memcpy(&record, dents + at[0] + DENT_RECLEN, sizeof(record))
        result = put_entry(
            request, handle, ino, following, dents[at[0] + DENT_TYPE], <const char *>dents + at[0] + DENT_NAME, plus, limit
        )
        if result != 0:
            return result
        handle.dir.position = <int64_t>following
        if handle.dir.first == 0:
            handle.dir.first = <int64_t>following
        at[0] += record
    return 0


cdef void keep(HandleTable *table, DirStream *dir, const uint8_t *dents, uint32_t length) noexcept nogil:
    """Keeps entries for the next answer; without room for that, the next answer seeks back to them."""
    if ferry_add_own_u64(&table.kept, length) + length <= KEPT_MAX:
        dir.rest = <uint8_t *>malloc(length)
    if dir.rest == NULL:
        ferry_add_own_u64(&table.kept, 0 - <uint64_t>length)
        dir.position = -1
        return
    memcpy(dir.rest, dents, length)
    dir.rest_at = 0
    dir.rest_length = length


cdef int fill(Request *request, Handle *handle, uint64_t offset, bint plus, uint32_t limit) noexcept nogil:
    """Fills the answer from the host's directory; under the stream's lock. 0 or -errno."""
    cdef DirStream *dir = handle.dir
    cdef size_t batch = limit if limit < DENTS_AT_ONCE else DENTS_AT_ONCE
    cdef uint32_t at
    cdef long got
    cdef int result
    if batch < DENTS_AT_LEAST:
        batch = DENTS_AT_LEAST
    if serve_carried(request, handle, &offset, plus, limit):
        return 0
    if offset == 0:
        dir.first = 0
    # From the beginning always means anew: rewinddir(3) shows what has changed.
    if dir.position != <int64_t>offset or (offset == 0 and dir.rest != NULL):
        dir_drop_rest(&request.server.handles, dir)
        dir.position = -1
        if lseek(handle.fd, <int64_t>offset, SEEK_SET) < 0:
            return -errno
        dir.position = <int64_t>offset
    while True:
        if dir.rest != NULL:
            result = give(request, handle, dir.rest, dir.rest_length, &dir.rest_at, plus, limit)
            if result == 0:
                dir_drop_rest(&request.server.handles, dir)
        else:
            got = syscall(SYS_getdents64, handle.fd, request.scratch, batch)
            if got < 0:
                dir.position = -1
                # The directory was removed while it was open: nothing is left in it.
                return 0 if errno == ENOENT or request.reply_length > 0 else -errno
            if got == 0:
                return 0
            at = 0
            result = give(request, handle, request.scratch, <uint32_t>got, &at, plus, limit)
            if result != 0:
                keep(&request.server.handles, dir, request.scratch + at, <uint32_t>got - at)
        if result != 0:
            return 0 if request.reply_length > 0 else -EINVAL


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
