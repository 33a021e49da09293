"""The inode table: nodeids, lookup counts, and how each inode is held on the host.

An inode is held by its file handle where the mount and our privileges allow, else by an O_PATH fd that it keeps. Handles are
turned into fds when needed, and a bounded cache of these fds (a clock) makes that rare. The same file by two names is one inode.
"""

from libc.errno cimport EBADF, EMFILE, ENFILE, ENOMEM, EOPNOTSUPP, EOVERFLOW, ESTALE, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset, strcmp, strdup

from ferryfs.engine.index cimport (
    INDEX_NONE, hash_u64, index_add, index_free, index_next, index_remove,
)
from ferryfs.engine.sys cimport (
    AT_EMPTY_PATH, AT_HANDLE_MNT_ID_UNIQUE, AT_SYMLINK_NOFOLLOW, MAX_HANDLE_SIZE, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW,
    O_NONBLOCK, O_PATH, O_RDONLY, S_IFDIR, S_IFMT, S_IFREG, STATX_BASIC_STATS, STATX_MNT_ID, STATX_MNT_ID_UNIQUE,
    SYS_name_to_handle_at, SYS_statx, Statx, close, file_handle, makedev, open_by_handle_at, openat, snprintf, syscall,
)
from ferryfs.engine.threads cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)


cdef struct HandleBuffer:
    file_handle head
    uint8_t bytes[MAX_HANDLE_SIZE]


cdef enum:
    KIND_SHIFT = 12


# ---- identity ------------------------------------------------------------------------------------------------------------


cdef int identify(InodeTable *table, int dir_fd, const char *name, int flags, Identity *identity) noexcept nogil:
    """Mount id and file handle of `name` in dir_fd (or of dir_fd itself, with AT_EMPTY_PATH): 0 or -errno.

    handle_size is 0 where the file system makes no handles, and handle_type too: it counts in the hash. dev and ino are not filled
    (identify_stat does).
    """
    cdef HandleBuffer buffer
    cdef uint64_t unique = 0
    cdef int old = 0
    cdef long result
    buffer.head.handle_bytes = MAX_HANDLE_SIZE
    buffer.head.handle_type = 0
    if table.unique_mount_ids:
        result = syscall(SYS_name_to_handle_at, dir_fd, name, &buffer, &unique, flags | AT_HANDLE_MNT_ID_UNIQUE)
    else:
        result = syscall(SYS_name_to_handle_at, dir_fd, name, &buffer, &old, flags)
        unique = <uint64_t>old
    if result < 0:
        if errno != EOPNOTSUPP and errno != EOVERFLOW:
            return -errno
        identity.handle_type = 0
        identity.handle_size = 0
        return 0
    identity.mount_id = unique
    identity.handle_type = buffer.head.handle_type
    identity.handle_size = buffer.head.handle_bytes
    if identity.handle_size > MAX_HANDLE_SIZE:
        identity.handle_type = 0
        identity.handle_size = 0
        return 0
    memcpy(identity.handle, buffer.bytes, identity.handle_size)
    return 0


cdef int identify_stat(
    InodeTable *table, int dir_fd, const char *name, int flags, Identity *identity, uint16_t *mode
) noexcept nogil:
    """What statx adds to an identity: device, number and, where there is no handle, the mount id; 0 or -errno."""
    cdef Statx st
    cdef unsigned int mask = STATX_BASIC_STATS | (STATX_MNT_ID_UNIQUE if table.unique_mount_ids else STATX_MNT_ID)
    if syscall(SYS_statx, dir_fd, name, flags | AT_SYMLINK_NOFOLLOW, mask, &st) < 0:
        return -errno
    identity.dev = makedev(st.dev_major, st.dev_minor)
    identity.ino = st.ino
    mode[0] = st.mode
    if identity.handle_size == 0:
        identity.mount_id = st.mnt_id
    return 0


cdef uint32_t hash_identity(const Identity *identity, uint32_t mount) noexcept nogil:
    cdef uint64_t value = (<uint64_t>mount << 32) ^ <uint32_t>identity.handle_type
    cdef uint64_t part
    cdef uint32_t i = 0
    if identity.handle_size == 0:
        return hash_u64(hash_u64(identity.ino) ^ (<uint64_t>hash_u64(identity.dev) << 32) ^ value)
    while i < identity.handle_size:
        part = 0
        memcpy(&part, identity.handle + i, identity.handle_size - i if identity.handle_size - i < 8 else 8)
        value = (value ^ part) * <uint64_t>0xff51afd7ed558ccd
        value ^= value >> 29
        i += 8
    return hash_u64(value)


cdef bint is_same(const Inode *inode, const Identity *identity, uint32_t mount) noexcept nogil:
    if inode.mount != mount or inode.handle_size != identity.handle_size:
        return False
    if identity.handle_size == 0:
        return inode.ino == identity.ino and inode.dev == identity.dev
    return (
        inode.handle_type == identity.handle_type
        and memcmp(inode_handle(inode), identity.handle, identity.handle_size) == 0
    )


# ---- slots (all under the lock) --------------------------------------------------------------------------------------------


cdef inline Inode *slot_at(const InodeTable *table, uint32_t slot) noexcept nogil:
    return &table.chunks[slot // CHUNK][slot % CHUNK]


cdef uint32_t take_slot(InodeTable *table) noexcept nogil:
    cdef uint32_t slot
    cdef void *block
    if table.free_slot:
        slot = <uint32_t>(table.free_slot - 1)
        table.free_slot = slot_at(table, slot).parent
        return slot
    if table.slots == table.chunk_count * CHUNK:
        block = realloc(table.chunks, (table.chunk_count + 1) * sizeof(Inode *))
        if block == NULL:
            return INDEX_NONE
        table.chunks = <Inode **>block
        block = calloc(CHUNK, sizeof(Inode))
        if block == NULL:
            return INDEX_NONE
        table.chunks[table.chunk_count] = <Inode *>block
        table.chunk_count += 1
    table.slots += 1
    return table.slots - 1


cdef uint32_t find_slot(const InodeTable *table, uint64_t id) noexcept nogil:
    cdef uint32_t hash = hash_u64(id)
    cdef uint32_t cursor = INDEX_NONE
    cdef uint32_t slot
    while True:
        slot = index_next(&table.by_id, hash, &cursor)
        if slot == INDEX_NONE or slot_at(table, slot).id == id:
            return slot


cdef Inode *find_identity(const InodeTable *table, const Identity *identity, uint32_t mount) noexcept nogil:
    cdef uint32_t hash = hash_identity(identity, mount)
    cdef uint32_t cursor = INDEX_NONE
    cdef uint32_t slot
    while True:
        slot = index_next(&table.by_identity, hash, &cursor)
        if slot == INDEX_NONE:
            return NULL
        if is_same(slot_at(table, slot), identity, mount):
            return slot_at(table, slot)


cdef int find_mount(const InodeTable *table, uint64_t id) noexcept nogil:
    cdef uint32_t i
    for i in range(table.mount_count):
        if table.mounts[i].id == id and (i == 0 or table.mounts[i].inodes > 0):
            return <int>i
    return -1


cdef void set_hint(Inode *inode, uint64_t parent, const char *name) noexcept nogil:
    if inode.name != NULL:
        if inode.parent == parent and strcmp(inode.name, name) == 0:
            return
        free(inode.name)
    inode.parent = parent
    inode.flags &= <uint8_t>~INODE_PLACED
    # No memory: no hint. A migration then finds it another way.
    inode.name = strdup(name)


cdef int drop_if_unused(InodeTable *table, Inode *inode) noexcept nogil:
    """Frees the slot when nothing uses the inode any more. Returns an fd to close after the lock is given back, or -1.

    Closing the last fd of an unlinked file frees its blocks, which can take long: never under the lock.
    """
    cdef int fd = inode.fd
    cdef uint32_t slot
    cdef Mount *mount
    if inode.nlookup > 0 or inode.pins > 0 or inode.opens > 0 or inode.id == 0:
        return -1
    slot = find_slot(table, inode.id)
    index_remove(&table.by_id, hash_u64(inode.id), slot)
    # A lost inode has no identity, but for one that stands for what lies beneath its missing mount (migration).
    if not inode.flags & INODE_INVALID or inode.ino != 0:
        index_remove(&table.by_identity, inode.hash, slot)
        mount = &table.mounts[inode.mount]
        mount.inodes -= 1
        if mount.inodes == 0 and inode.mount != 0 and mount.fd >= 0:
            close(mount.fd)     # a directory's or a file's that others hold as well, or whose last user is gone: short
            mount.fd = -1
    if inode.clock:
        table.clock[inode.clock - 1] = 0
    elif inode.flags & INODE_KEEPS_FD:
        table.fds -= 1
    free(inode.name)
    if inode.handle_size > INLINE_HANDLE:
        free(<void *>inode_handle(inode))
    memset(inode, 0, sizeof(Inode))
    inode.parent = table.free_slot
    table.free_slot = <uint64_t>slot + 1
    table.count -= 1
    return fd


# ---- the cache of fds (under the lock) -------------------------------------------------------------------------------------


cdef int cache_fd(InodeTable *table, Inode *inode, int fd) noexcept nogil:
    """Makes `fd` the cached one of `inode`. Returns an fd to close after the lock is given back, or -1."""
    cdef uint32_t _tries
    cdef uint32_t place
    cdef Inode *other
    cdef int evicted = -1
    for _tries in range(2 * table.clock_size):
        place = table.clock_hand
        table.clock_hand = (place + 1) % table.clock_size
        if table.clock[place] == 0:
            break
        other = slot_at(table, table.clock[place] - 1)
        if other.pins > 0:
            continue
        if other.flags & INODE_RECENT:
            other.flags &= <uint8_t>~INODE_RECENT
            continue
        evicted = other.fd
        other.fd = -1
        other.clock = 0
        break
    else:
        # Every cached fd is in use just now: it stays this inode's until the clock finds it by chance, which it must not.
        return fd
    table.clock[place] = find_slot(table, inode.id) + 1
    inode.clock = place + 1
    inode.fd = fd
    inode.flags |= INODE_RECENT
    return evicted


cdef int fds_shrink(InodeTable *table) noexcept nogil:
    """Closes the cached fds that nobody uses just now; how many. For when the process runs out of fds."""
    cdef uint32_t i
    cdef Inode *inode
    cdef int fd
    cdef int closed = 0
    for i in range(table.clock_size):
        fd = -1
        pthread_mutex_lock(&table.lock)
        if table.clock[i] != 0:
            inode = slot_at(table, table.clock[i] - 1)
            if inode.pins == 0:
                fd = inode.fd
                inode.fd = -1
                inode.clock = 0
                table.clock[i] = 0
        pthread_mutex_unlock(&table.lock)
        if fd >= 0:
            close(fd)
            closed += 1
    return closed


cdef int fds_reserve(InodeTable *table) noexcept nogil:
    """Counts one more fd that lasts (an open file, a kept O_PATH fd); 0, or -ENFILE when the guest has used its share up."""
    cdef int result = 0
    pthread_mutex_lock(&table.lock)
    if table.fds >= table.max_fds:
        result = -ENFILE
    else:
        table.fds += 1
    pthread_mutex_unlock(&table.lock)
    return result


cdef void fds_release(InodeTable *table) noexcept nogil:
    pthread_mutex_lock(&table.lock)
    table.fds -= 1
    pthread_mutex_unlock(&table.lock)


# ---- mounts ----------------------------------------------------------------------------------------------------------------


cdef int open_proc(const InodeTable *table, int fd, int flags) noexcept nogil:
    """Opens anew what `fd` is, through /proc/self/fd: an fd or -errno."""
    cdef char path[16]
    cdef int opened
    snprintf(path, sizeof(path), "%d", fd)
    opened = openat(table.proc_fd, path, (flags & ~O_NOFOLLOW) | O_CLOEXEC)
    return opened if opened >= 0 else -errno


cdef int open_mount(InodeTable *table, const Identity *identity, int fd, uint16_t mode) noexcept nogil:
    """An fd on the mount of `fd` by which its handles can be opened, tried with the one given; -1 when they can't be."""
    cdef HandleBuffer buffer
    cdef int mount_fd
    cdef int tried
    if not table.use_handles or identity.handle_size == 0:
        return -1
    # open_by_handle_at wants a mount named by an fd that is not O_PATH; a special file is never opened, so such a mount
    # (a device node bound over a file) does without.
    if mode & S_IFMT == S_IFDIR:
        mount_fd = open_proc(table, fd, O_RDONLY | O_DIRECTORY)
    elif mode & S_IFMT == S_IFREG:
        mount_fd = open_proc(table, fd, O_RDONLY | O_NONBLOCK)
    else:
        return -1
    if mount_fd < 0:
        return -1
    buffer.head.handle_bytes = identity.handle_size
    buffer.head.handle_type = identity.handle_type
    memcpy(buffer.bytes, identity.handle, identity.handle_size)
    tried = open_by_handle_at(mount_fd, &buffer.head, O_PATH | O_CLOEXEC)
    if tried < 0:
        close(mount_fd)
        return -1
    close(tried)
    return mount_fd


cdef int mount_of(InodeTable *table, const Identity *identity, int fd, uint16_t mode) noexcept nogil:
    """The index of the identity's mount, with one inode more counted on it (under way); -errno when there is no room."""
    cdef int index
    cdef int mount_fd
    cdef uint32_t i
    pthread_mutex_lock(&table.lock)
    index = find_mount(table, identity.mount_id)
    if index >= 0:
        table.mounts[index].inodes += 1
    pthread_mutex_unlock(&table.lock)
    if index >= 0:
        return index
    mount_fd = open_mount(table, identity, fd, mode)
    pthread_mutex_lock(&table.lock)
    # Another thread may have met the mount meanwhile.
    index = find_mount(table, identity.mount_id)
    if index < 0:
        i = 1 if table.mount_count > 0 else 0
        while i < table.mount_count and table.mounts[i].inodes > 0:
            i += 1
        if i < MAX_MOUNTS:
            if i == table.mount_count:
                table.mount_count += 1
            table.mounts[i].id = identity.mount_id
            table.mounts[i].fd = mount_fd
            table.mounts[i].inodes = 0
            mount_fd = -1
            index = <int>i
    if index >= 0:
        table.mounts[index].inodes += 1
    pthread_mutex_unlock(&table.lock)
    if mount_fd >= 0:
        close(mount_fd)
    return index if index >= 0 else -ENFILE


cdef void unuse_mount(InodeTable *table, int index) noexcept nogil:
    """Takes back what mount_of counted; under the lock."""
    cdef Mount *mount = &table.mounts[index]
    mount.inodes -= 1
    if mount.inodes == 0 and index != 0 and mount.fd >= 0:
        close(mount.fd)
        mount.fd = -1


# ---- what requests use -----------------------------------------------------------------------------------------------------


cdef Inode *inode_get(InodeTable *table, uint64_t id) noexcept nogil:
    """The inode, pinned until inode_put; NULL when the guest has no such nodeid."""
    cdef Inode *inode = NULL
    cdef uint32_t slot
    pthread_mutex_lock(&table.lock)
    slot = find_slot(table, id)
    if slot != INDEX_NONE and slot_at(table, slot).nlookup > 0:
        inode = slot_at(table, slot)
        inode.pins += 1
    pthread_mutex_unlock(&table.lock)
    return inode


cdef void inode_put(InodeTable *table, Inode *inode) noexcept nogil:
    cdef int fd
    pthread_mutex_lock(&table.lock)
    inode.pins -= 1
    fd = drop_if_unused(table, inode)
    pthread_mutex_unlock(&table.lock)
    if fd >= 0:
        close(fd)


cdef Inode *inode_known(InodeTable *table, const Identity *identity, uint64_t parent, const char *name) noexcept nogil:
    """The inode of that identity, pinned and with one lookup more, when the guest holds it already; else NULL."""
    cdef Inode *inode = NULL
    cdef int mount
    pthread_mutex_lock(&table.lock)
    mount = find_mount(table, identity.mount_id)
    if mount >= 0:
        inode = find_identity(table, identity, mount)
        if inode != NULL:
            inode.pins += 1
            inode.nlookup += 1
            set_hint(inode, parent, name)
    pthread_mutex_unlock(&table.lock)
    return inode


cdef int fill_slot(
    InodeTable *table, uint32_t slot, const Identity *identity, int mount, uint16_t mode, uint64_t id
) noexcept nogil:
    """Makes a free slot the inode `id` of that identity and files it; 0 or -ENOMEM (the slot is free again)."""
    cdef Inode *inode = slot_at(table, slot)
    cdef uint8_t *store
    memset(inode, 0, sizeof(Inode))
    inode.fd = -1
    inode.id = id
    inode.ino = identity.ino
    inode.dev = identity.dev
    inode.mount = <uint16_t>mount
    inode.kind = <uint8_t>((mode & S_IFMT) >> KIND_SHIFT)
    inode.handle_type = identity.handle_type
    inode.handle_size = <uint8_t>identity.handle_size
    inode.hash = hash_identity(identity, mount)
    store = inode.handle_store
    if identity.handle_size > INLINE_HANDLE:
        store = <uint8_t *>malloc(identity.handle_size)
        (<uint8_t **>inode.handle_store)[0] = store
    if store != NULL:
        memcpy(store, identity.handle, identity.handle_size)
        if index_add(&table.by_id, hash_u64(id), slot) == 0:
            if index_add(&table.by_identity, inode.hash, slot) == 0:
                table.count += 1
                return 0
            index_remove(&table.by_id, hash_u64(id), slot)
        if identity.handle_size > INLINE_HANDLE:
            free(store)
    memset(inode, 0, sizeof(Inode))
    inode.parent = table.free_slot
    table.free_slot = <uint64_t>slot + 1
    return -ENOMEM


cdef int add_on_mount(
    InodeTable *table, const Identity *identity, int mount, int fd, uint16_t mode, uint64_t parent, const char *name,
    Inode **found
) noexcept nogil:
    """The common end of inode_add and inode_add_open: `fd` (O_PATH or -1) is taken over, `mount` is counted by mount_of."""
    cdef Inode *inode
    cdef uint32_t slot
    cdef int result = 0
    pthread_mutex_lock(&table.lock)
    inode = find_identity(table, identity, mount)
    if inode != NULL:
        unuse_mount(table, mount)
    else:
        slot = INDEX_NONE
        if table.mounts[mount].fd < 0 and table.must_use_handles:
            result = -EOPNOTSUPP
        elif table.mounts[mount].fd < 0 and (fd < 0 or table.fds >= table.max_fds):
            result = -ENFILE
        else:
            slot = take_slot(table)
            result = fill_slot(table, slot, identity, mount, mode, table.next_id) if slot != INDEX_NONE else -ENOMEM
        if result == 0:
            inode = slot_at(table, slot)
            table.next_id += 1
            if table.mounts[mount].fd < 0:
                inode.fd = fd
                inode.flags = INODE_KEEPS_FD
                table.fds += 1
                fd = -1
            elif fd >= 0:
                fd = cache_fd(table, inode, fd)
        else:
            unuse_mount(table, mount)
    if inode != NULL:
        inode.pins += 1
        inode.nlookup += 1
        set_hint(inode, parent, name)
        found[0] = inode
    pthread_mutex_unlock(&table.lock)
    if fd >= 0:
        close(fd)
    return result


cdef int inode_add(
    InodeTable *table, const Identity *identity, int fd, uint16_t mode, uint64_t parent, const char *name, Inode **found
) noexcept nogil:
    """The inode of that identity, pinned and with one lookup more, made when it is new. 0 or -errno.

    `fd` is an O_PATH fd of it and is taken over in any case: kept, cached or closed.
    """
    cdef int mount = mount_of(table, identity, fd, mode)
    if mount < 0:
        close(fd)
        return mount
    return add_on_mount(table, identity, mount, fd, mode, parent, name, found)


cdef int inode_add_open(
    InodeTable *table, const Identity *identity, int fd, uint16_t mode, uint64_t parent, const char *name, Inode **found
) noexcept nogil:
    """As inode_add, for a file that was just created: `fd` is open for input or output and stays the caller's."""
    cdef int path_fd = -1
    cdef int mount = mount_of(table, identity, fd, mode)
    if mount < 0:
        return mount
    if table.mounts[mount].fd < 0:
        path_fd = open_proc(table, fd, O_PATH)
    return add_on_mount(table, identity, mount, path_fd, mode, parent, name, found)


cdef int open_handle(InodeTable *table, const Inode *inode, int flags) noexcept nogil:
    cdef HandleBuffer buffer
    cdef int fd
    buffer.head.handle_bytes = inode.handle_size
    buffer.head.handle_type = inode.handle_type
    memcpy(buffer.bytes, inode_handle(inode), inode.handle_size)
    fd = open_by_handle_at(table.mounts[inode.mount].fd, &buffer.head, flags | O_CLOEXEC)
    if fd < 0 and (errno == EMFILE or errno == ENFILE) and fds_shrink(table) > 0:
        fd = open_by_handle_at(table.mounts[inode.mount].fd, &buffer.head, flags | O_CLOEXEC)
    return fd if fd >= 0 else -errno


cdef int inode_fd(InodeTable *table, Inode *inode) noexcept nogil:
    """An O_PATH fd of a pinned inode, good until it is unpinned and not to be closed; or -errno (ESTALE: it is gone)."""
    cdef int fd
    cdef int spare
    if inode.flags & INODE_INVALID:
        return -inode.error
    pthread_mutex_lock(&table.lock)
    fd = inode.fd
    inode.flags |= INODE_RECENT
    pthread_mutex_unlock(&table.lock)
    if fd >= 0:
        return fd
    spare = open_handle(table, inode, O_PATH)
    if spare < 0:
        return spare
    pthread_mutex_lock(&table.lock)
    if inode.fd < 0:
        spare = cache_fd(table, inode, spare)
    fd = inode.fd
    pthread_mutex_unlock(&table.lock)
    if fd < 0:
        # The cache is full of fds in use: nobody would close this one.
        close(spare)
        return -EMFILE
    if spare >= 0:
        close(spare)
    return fd


cdef int inode_open(InodeTable *table, Inode *inode, int flags) noexcept nogil:
    """Opens a pinned regular file or directory for input and output: an fd of the caller's, or -errno.

    Special files are never opened, whatever the guest asks: a FIFO would block, a device would act.
    """
    cdef int fd
    if inode.flags & INODE_INVALID:
        return -inode.error
    if inode.flags & INODE_HOLLOW:
        return -ESTALE
    if inode.kind != S_IFREG >> KIND_SHIFT and inode.kind != S_IFDIR >> KIND_SHIFT:
        return -EBADF
    if not inode.flags & INODE_KEEPS_FD:
        return open_handle(table, inode, flags & ~O_NOFOLLOW)
    fd = open_proc(table, inode.fd, flags)
    if (fd == -EMFILE or fd == -ENFILE) and fds_shrink(table) > 0:
        fd = open_proc(table, inode.fd, flags)
    return fd


cdef void inode_forget(InodeTable *table, uint64_t id, uint64_t count) noexcept nogil:
    """The guest drops `count` lookups; more than there are counts as all. The root can't be forgotten."""
    cdef Inode *inode
    cdef uint32_t slot
    cdef int fd = -1
    if id == 1:
        return
    pthread_mutex_lock(&table.lock)
    slot = find_slot(table, id)
    if slot != INDEX_NONE:
        inode = slot_at(table, slot)
        inode.nlookup -= count if count < inode.nlookup else inode.nlookup
        fd = drop_if_unused(table, inode)
    pthread_mutex_unlock(&table.lock)
    if fd >= 0:
        close(fd)


cdef void inode_keep_fd(InodeTable *table, Inode *inode) noexcept nogil:
    """Holds a pinned inode by the fd that inode_fd gave, until it is forgotten: it has lost its name, and maybe its last.

    Half of the fds at most go this way: the guest must always be able to open files.
    """
    pthread_mutex_lock(&table.lock)
    if inode.clock and table.fds < table.max_fds // 2:
        table.clock[inode.clock - 1] = 0
        inode.clock = 0
        inode.flags |= INODE_KEEPS_FD
        table.fds += 1
    pthread_mutex_unlock(&table.lock)


cdef void inode_opened(InodeTable *table, Inode *inode) noexcept nogil:
    """An open file begins to use the (pinned) inode."""
    pthread_mutex_lock(&table.lock)
    inode.opens += 1
    pthread_mutex_unlock(&table.lock)


cdef void inode_closed(InodeTable *table, Inode *inode) noexcept nogil:
    cdef int fd
    pthread_mutex_lock(&table.lock)
    inode.opens -= 1
    fd = drop_if_unused(table, inode)
    pthread_mutex_unlock(&table.lock)
    if fd >= 0:
        close(fd)


cdef void inode_hint(InodeTable *table, Inode *inode, uint64_t parent, const char *name) noexcept nogil:
    """Notes where a pinned inode was last seen."""
    pthread_mutex_lock(&table.lock)
    set_hint(inode, parent, name)
    pthread_mutex_unlock(&table.lock)


# ---- life of the table -----------------------------------------------------------------------------------------------------


cdef int inodes_init(
    InodeTable *table, int root_fd, int proc_fd, uint32_t cached_fds, bint use_handles, bint must_use_handles
) noexcept nogil:
    """Prepares an empty table with the root (nodeid 1), which takes over `root_fd` (O_PATH); 0 or -errno.

    max_fds is the caller's to set.
    """
    cdef Identity identity
    cdef uint16_t mode = 0
    cdef int result
    cdef int mount
    cdef uint32_t slot
    memset(table, 0, sizeof(InodeTable))
    pthread_mutex_init(&table.lock, NULL)
    table.proc_fd = proc_fd
    table.use_handles = use_handles
    table.must_use_handles = must_use_handles
    table.clock_size = cached_fds
    table.clock = <uint32_t *>calloc(cached_fds, sizeof(uint32_t))
    table.mounts = <Mount *>calloc(MAX_MOUNTS, sizeof(Mount))
    if table.clock == NULL or table.mounts == NULL:
        close(root_fd)
        return -ENOMEM
    table.next_id = 2
    memset(&identity, 0, sizeof(identity))
    table.unique_mount_ids = True
    if identify(table, root_fd, "", AT_EMPTY_PATH, &identity) != 0 or identity.handle_size == 0:
        # An older kernel refuses the flag; a file system without handles can't tell, and there both words for the id agree.
        table.unique_mount_ids = False
        result = identify(table, root_fd, "", AT_EMPTY_PATH, &identity)
        if result < 0:
            close(root_fd)
            return result
    result = identify_stat(table, root_fd, "", AT_EMPTY_PATH, &identity, &mode)
    if result < 0:
        close(root_fd)
        return result
    mount = mount_of(table, &identity, root_fd, mode)
    slot = take_slot(table)
    if mount < 0 or slot == INDEX_NONE or fill_slot(table, slot, &identity, mount, mode, 1) < 0:
        close(root_fd)
        return -ENOMEM
    slot_at(table, slot).fd = root_fd
    slot_at(table, slot).flags = INODE_KEEPS_FD
    slot_at(table, slot).nlookup = 2
    table.fds = 1
    if must_use_handles and table.mounts[0].fd < 0:
        return -EOPNOTSUPP
    return 0


cdef void inodes_clear(InodeTable *table) noexcept nogil:
    """Forgets all but the root (DESTROY, a guest's reboot). What a request or an open file still uses goes with its last use."""
    cdef Inode *inode
    cdef uint32_t slot = 0
    cdef int fd
    while True:
        fd = -1
        pthread_mutex_lock(&table.lock)
        if slot >= table.slots:
            pthread_mutex_unlock(&table.lock)
            return
        inode = slot_at(table, slot)
        if inode.id > 1:
            inode.nlookup = 0
            fd = drop_if_unused(table, inode)
        pthread_mutex_unlock(&table.lock)
        if fd >= 0:
            close(fd)
        slot += 1


cdef void inodes_close(InodeTable *table) noexcept nogil:
    """Frees everything; no request may be in flight."""
    cdef Inode *inode
    cdef uint32_t i
    if table.mounts == NULL and table.clock == NULL:
        return
    for i in range(table.slots):
        inode = slot_at(table, i)
        if inode.id == 0:
            continue
        if inode.fd >= 0:
            close(inode.fd)
        free(inode.name)
        if inode.handle_size > INLINE_HANDLE:
            free(<void *>inode_handle(inode))
    for i in range(table.mount_count):
        if table.mounts[i].fd >= 0 and (i == 0 or table.mounts[i].inodes > 0):
            close(table.mounts[i].fd)
    for i in range(table.chunk_count):
        free(table.chunks[i])
    free(table.chunks)
    free(table.mounts)
    free(table.clock)
    index_free(&table.by_id)
    index_free(&table.by_identity)
    pthread_mutex_destroy(&table.lock)
    memset(table, 0, sizeof(InodeTable))
