"""The table of open files and directories."""

from libc.errno cimport EBADF, ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from ferryfs.engine.index cimport (
    INDEX_NONE, hash_u64, index_add, index_free, index_next, index_remove,
)
from ferryfs.engine.inode_fds cimport fds_release, inode_return
from ferryfs.engine.inodes cimport Inode, InodeTable, inode_closed, inode_opened
from ferryfs.engine.sys cimport F_GETFL, F_SETFL, O_DIRECT, close, fcntl
from ferryfs.engine.threads cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)
from ferryfs.ring.atomics cimport ferry_add_own_u64


cdef inline Handle *slot_at(const HandleTable *table, uint32_t slot) noexcept nogil:
    return &table.chunks[slot // HANDLE_CHUNK][slot % HANDLE_CHUNK]


cdef uint32_t find_slot(const HandleTable *table, uint64_t id) noexcept nogil:
    cdef uint32_t hash = hash_u64(id)
    cdef uint32_t cursor = INDEX_NONE
    cdef uint32_t slot
    while True:
        slot = index_next(&table.by_id, hash, &cursor)
        if slot == INDEX_NONE or slot_at(table, slot).id == id:
            return slot


cdef uint32_t take_slot(HandleTable *table) noexcept nogil:
    cdef uint32_t slot
    cdef void *block
    if table.free_slot:
        slot = table.free_slot - 1
        table.free_slot = slot_at(table, slot).users
        return slot
    if table.slots == table.chunk_count * HANDLE_CHUNK:
        block = realloc(table.chunks, (table.chunk_count + 1) * sizeof(Handle *))
        if block == NULL:
            return INDEX_NONE
        table.chunks = <Handle **>block
        block = calloc(HANDLE_CHUNK, sizeof(Handle))
        if block == NULL:
            return INDEX_NONE
        table.chunks[table.chunk_count] = <Handle *>block
        table.chunk_count += 1
    table.slots += 1
    return table.slots - 1


cdef void free_slot(HandleTable *table, uint32_t slot) noexcept nogil:
    cdef Handle *handle = slot_at(table, slot)
    memset(handle, 0, sizeof(Handle))
    handle.users = table.free_slot
    table.free_slot = slot + 1


cdef void dir_drop_rest(HandleTable *table, DirStream *dir) noexcept nogil:
    """Forgets the entries that were read ahead; under the stream's lock. The caller sees to where the fd stands."""
    ferry_add_own_u64(&table.kept, 0 - <uint64_t>dir.rest_length)
    free(dir.rest)
    dir.rest = NULL
    dir.rest_at = 0
    dir.rest_length = 0


cdef void dir_drop_carried(DirStream *dir) noexcept nogil:
    """Forgets the entries that came with a migration; under the stream's lock."""
    cdef uint32_t i
    for i in range(dir.carried_count):
        free(dir.carried[i].name)
    free(dir.carried)
    dir.carried = NULL
    dir.carried_count = 0


cdef void free_dir(HandleTable *table, DirStream *dir) noexcept nogil:
    if dir == NULL:
        return
    dir_drop_carried(dir)
    dir_drop_rest(table, dir)
    pthread_mutex_destroy(&dir.lock)
    free(dir)


cdef int handle_add(
    HandleTable *table, InodeTable *inodes, Inode *inode, int fd, int flags, uint8_t state, uint64_t *id
) noexcept nogil:
    """Files an open `fd` (counted by fds_reserve) of a pinned inode under a new id; 0 or -ENOMEM. On success fd is the table's.

    `state`: HANDLE_DIR, HANDLE_PLAIN, HANDLE_BORROWED (which is counted as open already), or 0.
    """
    cdef Handle *handle
    cdef DirStream *dir = NULL
    cdef uint32_t slot
    if state & HANDLE_DIR:
        dir = <DirStream *>calloc(1, sizeof(DirStream))
        if dir == NULL:
            return -ENOMEM
        pthread_mutex_init(&dir.lock, NULL)
    pthread_mutex_lock(&table.lock)
    slot = take_slot(table)
    if slot == INDEX_NONE or index_add(&table.by_id, hash_u64(table.next_id), slot) < 0:
        if slot != INDEX_NONE:
            free_slot(table, slot)
        pthread_mutex_unlock(&table.lock)
        free_dir(table, dir)
        return -ENOMEM
    handle = slot_at(table, slot)
    handle.id = table.next_id
    table.next_id += 1
    table.count += 1
    handle.inode = inode
    handle.dir = dir
    handle.fd = fd
    handle.flags = flags
    handle.users = 0
    handle.state = HANDLE_USED | state
    handle.error = 0
    id[0] = handle.id
    if not state & HANDLE_BORROWED:
        inode_opened(inodes, inode)
    pthread_mutex_unlock(&table.lock)
    return 0


cdef Handle *handle_get(HandleTable *table, uint64_t id) noexcept nogil:
    """The open file, in use until handle_put; NULL when the guest has no such fh."""
    cdef Handle *handle = NULL
    cdef uint32_t slot
    pthread_mutex_lock(&table.lock)
    slot = find_slot(table, id)
    if slot != INDEX_NONE and not slot_at(table, slot).state & HANDLE_RELEASED:
        handle = slot_at(table, slot)
        handle.users += 1
    pthread_mutex_unlock(&table.lock)
    return handle


cdef void close_file(InodeTable *inodes, Inode *inode, int fd, int flags, uint8_t state) noexcept nogil:
    """The end of an open file's fd: goes back, is left to the next one, or is closed."""
    if state & HANDLE_PLAIN:
        # The guest may have changed that by F_SETFL.
        if flags & O_DIRECT:
            fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT)
        if state & HANDLE_BORROWED:
            return
        fd = inode_return(inodes, inode, fd)
    if fd >= 0:
        close(fd)


cdef void drop(HandleTable *table, InodeTable *inodes, uint32_t slot) noexcept nogil:
    """Ends a released handle that nobody uses. Takes the lock's place: called with it held, returns with it given back."""
    cdef Handle *handle = slot_at(table, slot)
    cdef Inode *inode = handle.inode
    cdef DirStream *dir = handle.dir
    cdef int fd = handle.fd
    cdef int flags = handle.flags
    cdef uint8_t state = handle.state
    index_remove(&table.by_id, hash_u64(handle.id), slot)
    free_slot(table, slot)
    table.count -= 1
    pthread_mutex_unlock(&table.lock)
    free_dir(table, dir)
    if fd >= 0:
        close_file(inodes, inode, fd, flags, state)
        fds_release(inodes)
    if inode != NULL:
        inode_closed(inodes, inode)


cdef void handle_put(HandleTable *table, InodeTable *inodes, Handle *handle) noexcept nogil:
    pthread_mutex_lock(&table.lock)
    handle.users -= 1
    if handle.state & HANDLE_RELEASED and handle.users == 0:
        drop(table, inodes, find_slot(table, handle.id))
        return
    pthread_mutex_unlock(&table.lock)


cdef int handle_release(HandleTable *table, InodeTable *inodes, uint64_t id) noexcept nogil:
    """The guest closes it: 0, or -EBADF when there is no such fh. Requests that still use it finish first."""
    cdef uint32_t slot
    pthread_mutex_lock(&table.lock)
    slot = find_slot(table, id)
    if slot == INDEX_NONE or slot_at(table, slot).state & HANDLE_RELEASED:
        pthread_mutex_unlock(&table.lock)
        return -EBADF
    slot_at(table, slot).state |= HANDLE_RELEASED
    if slot_at(table, slot).users == 0:
        drop(table, inodes, slot)
        return 0
    pthread_mutex_unlock(&table.lock)
    return 0


cdef Handle *handle_of_inode(HandleTable *table, const Inode *inode) noexcept nogil:
    """Any open file of that inode, in use until handle_put, or NULL. A walk through the table: for what is rare (an unlinked
    file whose file handle can't be opened any more).
    """
    cdef Handle *handle = NULL
    cdef uint32_t slot
    if inode.opens == 0:
        return NULL
    pthread_mutex_lock(&table.lock)
    for slot in range(table.slots):
        if slot_at(table, slot).state & HANDLE_USED and slot_at(table, slot).inode == inode and slot_at(table, slot).fd >= 0:
            if not slot_at(table, slot).state & HANDLE_RELEASED:
                handle = slot_at(table, slot)
                handle.users += 1
                break
    pthread_mutex_unlock(&table.lock)
    return handle


cdef void handle_set_flags(HandleTable *table, Handle *handle, int flags) noexcept nogil:
    """Notes the guest's present flags of a used handle (it may change them by fcntl at any time)."""
    pthread_mutex_lock(&table.lock)
    handle.flags = flags
    pthread_mutex_unlock(&table.lock)


cdef void handle_set_state(HandleTable *table, Handle *handle, uint8_t state) noexcept nogil:
    """Notes something more (HANDLE_…) about a used handle."""
    pthread_mutex_lock(&table.lock)
    handle.state |= state
    pthread_mutex_unlock(&table.lock)


cdef void handle_clear_state(HandleTable *table, Handle *handle, uint8_t state) noexcept nogil:
    """Takes back what handle_set_state noted."""
    pthread_mutex_lock(&table.lock)
    handle.state &= <uint8_t>~state
    pthread_mutex_unlock(&table.lock)


cdef int handles_init(HandleTable *table) noexcept nogil:
    memset(table, 0, sizeof(HandleTable))
    pthread_mutex_init(&table.lock, NULL)
    table.next_id = 1
    return 0


cdef void handles_clear(HandleTable *table, InodeTable *inodes) noexcept nogil:
    """Releases all (DESTROY, a guest's reboot)."""
    cdef uint32_t slot = 0
    while True:
        pthread_mutex_lock(&table.lock)
        if slot >= table.slots:
            pthread_mutex_unlock(&table.lock)
            return
        if slot_at(table, slot).state & HANDLE_USED and not slot_at(table, slot).state & HANDLE_RELEASED:
            slot_at(table, slot).state |= HANDLE_RELEASED
            if slot_at(table, slot).users == 0:
                drop(table, inodes, slot)
                slot += 1
                continue
        pthread_mutex_unlock(&table.lock)
        slot += 1


cdef void handles_close(HandleTable *table, InodeTable *inodes) noexcept nogil:
    """Frees everything; no request may be in flight. Before inodes_close."""
    cdef uint32_t i
    if table.chunks != NULL:
        handles_clear(table, inodes)
    for i in range(table.chunk_count):
        free(table.chunks[i])
    free(table.chunks)
    index_free(&table.by_id)
    pthread_mutex_destroy(&table.lock)
    memset(table, 0, sizeof(HandleTable))
