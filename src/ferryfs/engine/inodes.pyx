"""The inode table: nodeids, lookup counts, and who uses which inode. The same file by two names is one inode."""

from libc.errno cimport ENFILE, ENOENT, ENOMEM, EOPNOTSUPP
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset, strcmp, strdup

from ferryfs.engine.identity cimport hash_identity, identify, identify_stat, is_same
from ferryfs.engine.index cimport INDEX_NONE, hash_u64, index_add, index_free, index_next, index_remove
from ferryfs.engine.inode_fds cimport cache_fd, inode_fd, open_proc
from ferryfs.engine.mounts cimport find_mount, mount_of, unuse_mount
from ferryfs.engine.pages cimport give_pages, take_pages
from ferryfs.engine.sys cimport AT_EMPTY_PATH, O_PATH, S_IFMT, close
from ferryfs.engine.threads cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)

cdef extern from "<unistd.h>" nogil:
    int _SC_PAGESIZE
    long sysconf(int name)


# ---- slots (all under the lock) --------------------------------------------------------------------------------------------


cdef uint32_t take_slot(InodeTable *table) noexcept nogil:
    cdef uint32_t slot
    if table.free_slot:
        slot = <uint32_t>(table.free_slot - 1)
        table.free_slot = slot_at(table, slot).parent
        return slot
    if table.slots == table.chunk_count * CHUNK and add_chunks(table, 1) < 0:
        return INDEX_NONE
    table.slots += 1
    return table.slots - 1


cdef void reserve_slots(InodeTable *table, uint32_t more) noexcept nogil:
    """Makes room for so many inodes at once, where there is memory."""
    cdef uint64_t wanted = <uint64_t>table.slots + more
    if wanted > <uint64_t>table.chunk_count * CHUNK:
        add_chunks(table, <uint32_t>((wanted + CHUNK - 1) // CHUNK) - table.chunk_count)


cdef int add_chunks(InodeTable *table, uint32_t count) noexcept nogil:
    """0, or -1 when there is no memory."""
    cdef uint32_t i
    cdef char *memory
    cdef void *chunks = realloc(table.chunks, (<size_t>table.chunk_count + count) * sizeof(Inode *))
    if chunks == NULL:
        return -1
    table.chunks = <Inode **>chunks
    memory = <char *>take_pages(count * chunk_bytes())
    if memory == NULL:
        return -1
    for i in range(count):
        table.chunks[table.chunk_count + i] = <Inode *>(memory + i * chunk_bytes())
    table.chunk_count += count
    return 0


cdef size_t chunk_bytes() noexcept nogil:
    """Of a chunk, in whole pages: each is given back by itself."""
    cdef size_t page = <size_t>sysconf(_SC_PAGESIZE)
    return (CHUNK * sizeof(Inode) + page - 1) // page * page


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
    if inode.nlookup > 0 or inode.pins > 0 or inode.opens > 0 or inode.id == 0:
        return -1
    slot = find_slot(table, inode.id)
    index_remove(&table.by_id, hash_u64(inode.id), slot)
    # A lost inode has no identity, but for one that stands for what lies beneath its missing mount (migration).
    if not inode.flags & INODE_INVALID or inode.ino != 0:
        index_remove(&table.by_identity, inode.hash, slot)
        unuse_mount(table, inode.mount)
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


cdef int inode_get_fd(InodeTable *table, uint64_t id, Inode **found) noexcept nogil:
    """inode_get and inode_fd with one look into the table: an O_PATH fd, with the inode pinned; or -errno, with nothing pinned."""
    cdef Inode *inode = NULL
    cdef uint32_t slot
    cdef int fd = -1
    pthread_mutex_lock(&table.lock)
    slot = find_slot(table, id)
    if slot != INDEX_NONE and slot_at(table, slot).nlookup > 0:
        inode = slot_at(table, slot)
        inode.pins += 1
        inode.flags |= INODE_RECENT
        fd = -1 if inode.flags & INODE_INVALID else inode.fd
    pthread_mutex_unlock(&table.lock)
    if inode == NULL:
        return -ENOENT
    if fd < 0:
        fd = inode_fd(table, inode)
    if fd < 0:
        inode_put(table, inode)
    else:
        found[0] = inode
    return fd


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
    return fill_hashed(table, slot, identity, hash_identity(identity, mount), mount, mode, id)


cdef int fill_hashed(
    InodeTable *table, uint32_t slot, const Identity *identity, uint32_t hash, int mount, uint16_t mode, uint64_t id
) noexcept nogil:
    """As fill_slot, with the identity's hash."""
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
    inode.hash = hash
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
        if inode.flags & INODE_UNPROVEN:
            # A name in the share has led to it: that is the proof.
            inode_proven(inode, identity.dev, identity.ino, mode)
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


cdef int inode_add_unopened(
    InodeTable *table, const Identity *identity, const Inode *parent, uint16_t mode, const char *name, Inode **found
) noexcept nogil:
    """As inode_add, for what nobody has opened: 1, or 0 when it must be (it is not held by handle, or not on the parent's mount)."""
    cdef int mount = parent.mount
    cdef int result
    pthread_mutex_lock(&table.lock)
    if table.mounts[mount].id != identity.mount_id or table.mounts[mount].fd < 0:
        mount = -1
    else:
        table.mounts[mount].inodes += 1
    pthread_mutex_unlock(&table.lock)
    if mount < 0:
        return 0
    result = add_on_mount(table, identity, mount, -1, mode, parent.id, name, found)
    if result < 0:
        return result
    pthread_mutex_lock(&table.lock)
    found[0].flags |= INODE_LOOKED_UP
    pthread_mutex_unlock(&table.lock)
    return 1


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
        if table.mounts[i].sync_fd >= 0 and (i == 0 or table.mounts[i].inodes > 0):
            close(table.mounts[i].sync_fd)
    for i in range(table.chunk_count):
        give_pages(table.chunks[i], chunk_bytes())
    free(table.chunks)
    free(table.mounts)
    free(table.clock)
    index_free(&table.by_id)
    index_free(&table.by_identity)
    pthread_mutex_destroy(&table.lock)
    memset(table, 0, sizeof(InodeTable))
