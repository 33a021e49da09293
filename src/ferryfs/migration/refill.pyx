"""Restoring the inodes of a state that are where they should be and are what they should be, without an object an inode.

Each thread takes a round of records. It looks at all of them without a lock, one directory after the other, and then files what it
has found under one. It judges nothing: what it leaves is ``restore``'s to look for, and to say what became of it.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from ferryfs.engine.device cimport Device
from ferryfs.engine.index cimport INDEX_NONE, index_reserve
from ferryfs.engine.identity cimport identify
from ferryfs.engine.inode_fds cimport cache_fd, inode_fd, open_by_handle
from ferryfs.engine.inodes cimport (
    CHUNK, INODE_KEEPS_FD, INODE_LOOKED_UP, Identity, Inode, InodeTable, fill_slot, find_slot, inode_put, reserve_slots,
    set_hint, take_slot,
)
from ferryfs.engine.mounts cimport find_mount, mount_of, unuse_mount
from ferryfs.engine.sys cimport (
    AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, MAX_HANDLE_SIZE, O_CLOEXEC, O_NOFOLLOW, O_PATH, STATX_BASIC_STATS, STATX_MNT_ID,
    STATX_MNT_ID_UNIQUE, SYS_statx, Statx, close, file_handle, makedev, openat, syscall,
)
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock
from ferryfs.migration.bulk cimport FILE_HANDLE, LEFT, PATH, RESTORED, WAITING, Record, Records
from ferryfs.migration.cursor cimport NAME_MAX_BYTES, Cursor, ToldHandle, read_handle
from ferryfs.migration.columns cimport NOT_MEASURED
from ferryfs.migration.entries cimport see_entries, seen_entries
from ferryfs.migration.fid cimport FidBuffer, fid_of


cdef enum:
    ROOT = 1
    KIND_SHIFT = 12
    KIND_FILE = 8               # S_IFREG >> 12
    KIND_DIR = 4
    ROUND = 1024                # records that a thread takes at a time: what it finds of them stays in the processor's cache
    SPANS = 8                   # that a thread takes of directories: more would be more waiting for the interpreter's lock


cdef struct HandleBuffer:
    file_handle head
    uint8_t bytes[MAX_HANDLE_SIZE]

cdef struct KnownMount:
    uint64_t number             # the source's
    uint64_t here               # the table's
    int fd                      # for open_by_handle_at

# By what a record is judged.
cdef struct Terms:
    bint compare
    bint same
    KnownMount *mounts
    int mount_count

# What lies where a record says.
cdef struct Found:
    Identity identity
    uint64_t size
    int64_t mtime_ns
    uint32_t nlink
    uint16_t mode
    bint good
    int mount                   # index in the table, counted there; -1: it is known by its id
    int fd                      # O_PATH, where the inode has to be held by one; -1: none

# The directory at which a round is.
cdef struct Folder:
    uint32_t record
    Inode *inode                # pinned
    int fd                      # the inode's; negative: it can't be had
    uint64_t mount_id           # of the inode, as `dev` is
    uint64_t dev


def restore(Records records not None, Device device not None, bint compare, bint same, dict mount_fds, pool_map, int threads):
    """Restores what is where it should be and is what it should be; the rest is ``left``.

    ``compare``: hold it against what the trailer expects; ``same``: handles count, as source and destination share one
    directory. ``mount_fds``: mount id of the source -> fd for open_by_handle_at. ``pool_map``: map of an executor.
    The rings must be stopped, and nothing else may use the tables. An inode that only leads to others (``pinned``) is pinned, or
    it would go at once.
    """
    cdef uint32_t root = records.find(ROOT)
    cdef InodeTable *table = &device.server.inodes
    mounts = [(number, fd, mount_here(device, fd)) for number, fd in mount_fds.items()]
    if root != INDEX_NONE:
        records.records[root].progress = RESTORED
    # Without it they would grow a few times on the way, which costs time only.
    records.arrange()
    index_reserve(&table.by_id, records.ordered)
    index_reserve(&table.by_identity, records.ordered)
    reserve_slots(table, <uint32_t>records.ordered)

    def one(span):
        restore_round(records, device, span[0], span[1], compare, same, mounts)

    def see(span):
        see_round(records, device, span[0], span[1])

    for first, last in records.levels:
        run(see, first, last, max(ROUND, (last - first) // (SPANS * threads)), pool_map, threads)
        # What needs no look is only filed, under one lock: two threads would do nothing but wait for each other.
        seen = seen_entries(records, first, last)
        run(one, first, last, ROUND, pool_map, threads if seen < (last - first) // 2 else 1)


cdef object run(work, uint64_t first, uint64_t last, uint64_t at_once, pool_map, int threads):
    """Does the work for spans of so many records, in so many threads."""
    spans = [(at, min(at + at_once, last)) for at in range(first, last, at_once)]
    if threads > 1 and len(spans) > 1:
        list(pool_map(work, spans))
    else:
        for span in spans:
            work(span)


cdef object see_round(Records records, Device device, uint64_t first, uint64_t last):
    with nogil:
        see_entries(records, &device.server.inodes, first, last)


cdef object restore_round(
    Records records, Device device, uint64_t first, uint64_t last, bint compare, bint same, list mounts
):
    cdef Terms terms
    cdef Found *found = <Found *>malloc((last - first) * sizeof(Found))
    terms.compare = compare
    terms.same = same
    terms.mount_count = 0
    terms.mounts = <KnownMount *>malloc((len(mounts) + 1) * sizeof(KnownMount))
    try:
        if terms.mounts == NULL or found == NULL:
            raise MemoryError
        for number, fd, here in mounts:
            terms.mounts[terms.mount_count].number = number
            terms.mounts[terms.mount_count].fd = fd
            terms.mounts[terms.mount_count].here = here
            terms.mount_count += 1
        with nogil:
            look_round(records, &device.server.inodes, first, last, &terms, found)
            file_round(records, &device.server.inodes, first, last, found)
    finally:
        free(terms.mounts)
        free(found)


cdef uint64_t mount_here(Device device, int fd) except? 0:
    """The number that the table has for the mount of ``fd``; 0 when it can't be told."""
    cdef Identity identity
    if identify(&device.server.inodes, fd, b"", AT_EMPTY_PATH, &identity) < 0 or identity.handle_size == 0:
        return 0
    return identity.mount_id


# ---- looking ---------------------------------------------------------------------------------------------------------------


cdef void look_round(
    Records records, InodeTable *table, uint64_t first, uint64_t last, const Terms *terms, Found *found
) noexcept nogil:
    cdef Folder folder
    cdef uint64_t handled = 0
    cdef uint64_t i
    folder.record = INDEX_NONE
    folder.inode = NULL
    folder.fd = -1
    for i in range(first, last):
        found[i - first].good = False
        found[i - first].fd = -1
        found[i - first].mount = -1
        if records.records[records.order[i]].progress == WAITING:
            look(records, table, &records.records[records.order[i]], terms, &folder, &handled, &found[i - first])
    leave(table, &folder)


cdef void look(
    Records records, InodeTable *table, Record *record, const Terms *terms, Folder *folder, uint64_t *handled, Found *found
) noexcept nogil:
    record.progress = LEFT
    if record.parent_record != INDEX_NONE:
        enter(records, table, record.parent_record, folder)
        if folder.fd < 0:
            return
        if record.seen_ino:
            take_seen(folder, record, found)
        elif look_in(table, folder.fd, record, handled, found) < 0:
            return
        if record.location == FILE_HANDLE and not has_handle(records, record, &found.identity, terms):
            return
    elif record.location == FILE_HANDLE:
        # A directory must be shown to lie below the root: the slow road does that. One without a name is kept open there.
        if open_located(records, record, terms, &found.fd) < 0 or look_at(table, found.fd, b"", AT_EMPTY_PATH, found) < 0:
            return
        if found.mode >> KIND_SHIFT == KIND_DIR or found.nlink == 0:
            return
    else:
        return
    found.good = is_it(records, record, terms, found)


cdef void enter(Records records, InodeTable *table, uint32_t number, Folder *folder) noexcept nogil:
    """Goes to the directory of that record, unless it is there."""
    cdef uint32_t slot
    if folder.record == number:
        return
    leave(table, folder)
    folder.record = number
    if records.records[number].progress != RESTORED:
        return
    pthread_mutex_lock(&table.lock)
    slot = find_slot(table, records.records[number].id)
    if slot != INDEX_NONE:
        folder.inode = &table.chunks[slot // CHUNK][slot % CHUNK]
        folder.inode.pins += 1
        folder.mount_id = table.mounts[folder.inode.mount].id
        folder.dev = folder.inode.dev
    pthread_mutex_unlock(&table.lock)
    if folder.inode != NULL:
        folder.fd = inode_fd(table, folder.inode)


cdef void leave(InodeTable *table, Folder *folder) noexcept nogil:
    if folder.inode != NULL:
        inode_put(table, folder.inode)
    folder.inode = NULL
    folder.fd = -1


cdef void take_seen(const Folder *folder, const Record *record, Found *found) noexcept nogil:
    """What ``entries`` has seen is what the trailer expects; it lies on its directory's mount."""
    found.identity.mount_id = folder.mount_id
    found.identity.dev = folder.dev
    found.identity.ino = record.seen_ino
    found.identity.handle_type = record.expected_type
    found.identity.handle_size = record.expected_size
    # SAFETY: the handles that ``entries`` knows are shorter than MAX_HANDLE_SIZE.
    memcpy(found.identity.handle, record.expected, record.expected_size)
    found.mode = <uint16_t>(record.kind << KIND_SHIFT)
    found.size = record.size
    found.mtime_ns = record.mtime_ns
    found.nlink = 1


cdef int look_in(InodeTable *table, int folder_fd, const Record *record, uint64_t *handled, Found *found) noexcept nogil:
    """Identity and attributes of a name in an open directory, with an fd where the inode has to be held by one; 0 or -1."""
    cdef char name[NAME_MAX_BYTES + 1]
    # SAFETY: read_name and Records.claim saw to at most NAME_MAX_BYTES, within bytes that the records hold.
    memcpy(name, record.name, record.name_length)
    name[record.name_length] = 0
    if look_at(table, folder_fd, name, 0, found) < 0:
        return -1
    if goes_by_handle(table, &found.identity, handled):
        return 0
    found.fd = openat(folder_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC)
    return look_at(table, found.fd, b"", AT_EMPTY_PATH, found) if found.fd >= 0 else -1


cdef bint goes_by_handle(InodeTable *table, const Identity *identity, uint64_t *handled) noexcept nogil:
    """Whether inodes on that mount are held by handle. ``handled``: the id of a mount of which that is known; 0: none."""
    cdef int mount
    if identity.handle_size == 0:
        return False
    if identity.mount_id == handled[0]:
        return True
    pthread_mutex_lock(&table.lock)
    mount = find_mount(table, identity.mount_id)
    if mount >= 0 and table.mounts[mount].fd >= 0:
        handled[0] = identity.mount_id
    pthread_mutex_unlock(&table.lock)
    return identity.mount_id == handled[0]


cdef int look_at(InodeTable *table, int dir_fd, const char *name, int flags, Found *found) noexcept nogil:
    """Identity and attributes of one name; 0 or -1.

    With a name these are two calls, and the name may be given to another file between them. The guest then holds the file of the
    handle, with attributes that its next GETATTR mends.
    """
    cdef Statx st
    cdef unsigned int mask = STATX_BASIC_STATS | (STATX_MNT_ID_UNIQUE if table.unique_mount_ids else STATX_MNT_ID)
    if identify(table, dir_fd, name, flags, &found.identity) < 0:
        return -1
    if syscall(SYS_statx, dir_fd, name, flags | AT_SYMLINK_NOFOLLOW, mask, &st) < 0:
        return -1
    found.mode = st.mode
    found.size = st.size
    found.mtime_ns = <int64_t>st.mtime.sec * 1_000_000_000 + st.mtime.nsec
    found.nlink = st.nlink
    found.identity.dev = makedev(st.dev_major, st.dev_minor)
    found.identity.ino = st.ino
    if found.identity.handle_size == 0:
        found.identity.handle_type = 0
        found.identity.mount_id = st.mnt_id
    return 0


cdef int open_located(Records records, const Record *record, const Terms *terms, int *fd) noexcept nogil:
    """An O_PATH fd of the handle by which an inode is located; 0 or -1."""
    cdef HandleBuffer buffer
    cdef ToldHandle told
    cdef Cursor cursor = records.behind(record.located)
    cdef int i
    if read_handle(&cursor, &told) < 0:
        return -1
    for i in range(terms.mount_count):
        if terms.mounts[i].number == told.mount:
            buffer.head.handle_bytes = told.size
            buffer.head.handle_type = told.type
            # SAFETY: read_handle takes at most MAX_HANDLE_SIZE bytes, all within the stream.
            memcpy(buffer.bytes, told.bytes, told.size)
            fd[0] = open_by_handle(terms.mounts[i].fd, &buffer.head, O_PATH | O_NOFOLLOW)
            return 0 if fd[0] >= 0 else -1
    return -1


# ---- judging ---------------------------------------------------------------------------------------------------------------


cdef bint is_handle(const Identity *identity, int type, const uint8_t *bytes, uint32_t size) noexcept nogil:
    # SAFETY: both have `size` bytes when the sizes agree.
    return identity.handle_size == size and identity.handle_type == type and memcmp(identity.handle, bytes, size) == 0


cdef bint has_handle(Records records, const Record *record, const Identity *identity, const Terms *terms) noexcept nogil:
    """Whether what lies under the claimed name has the handle by which the inode is located."""
    cdef ToldHandle told
    cdef Cursor cursor = records.behind(record.located)
    cdef int i
    if read_handle(&cursor, &told) < 0 or not is_handle(identity, told.type, told.bytes, told.size):
        return False
    for i in range(terms.mount_count):
        if terms.mounts[i].number == told.mount:
            return terms.mounts[i].here == identity.mount_id
    return False


cdef bint is_it(Records records, Record *record, const Terms *terms, const Found *found) noexcept nogil:
    """Whether what was found is the source's inode, as far as anything says; the slow road finds out why not."""
    cdef ToldHandle told
    cdef FidBuffer fid
    cdef uint32_t fid_size
    cdef bint has_its_handle
    cdef Cursor cursor
    if record.location == PATH and record.compare != NULL:
        cursor = records.behind(record.compare)
        if read_handle(&cursor, &told) < 0 or not is_handle(&found.identity, told.type, told.bytes, told.size):
            return False
    if not terms.compare or not record.told:
        return True
    # The name may have been given to another file between the two calls of look_at: its type is not the handle's then.
    if found.mode >> KIND_SHIFT != record.kind:
        return False
    has_its_handle = (
        record.expected != NULL and found.identity.handle_size > 0
        and is_handle(&found.identity, record.expected_type, record.expected, record.expected_size)
    )
    if terms.same and record.expected != NULL:
        if record.expected_fid:
            fid_size = fid_of(found.fd, &fid) if found.fd >= 0 else 0
            has_its_handle = (
                fid_size == record.expected_size and fid.head.handle_type == record.expected_type
                and memcmp(fid.bytes, record.expected, fid_size) == 0
            )
        if not has_its_handle or not record.sized:
            return has_its_handle
    if record.kind != KIND_FILE or record.size == NOT_MEASURED:
        return True
    if found.size != record.size:
        return False
    record.aged = found.mtime_ns != record.mtime_ns
    return not (records.clone and record.aged and record.expected != NULL and not record.expected_fid and not has_its_handle)


# ---- filing ----------------------------------------------------------------------------------------------------------------


cdef void file_round(Records records, InodeTable *table, uint64_t first, uint64_t last, Found *found) noexcept nogil:
    """What is good goes into the table, pinned where it only leads to others; all fds are taken over."""
    cdef uint64_t i
    for i in range(last - first):
        if found[i].good and found[i].fd >= 0:
            found[i].mount = mount_of(table, &found[i].identity, found[i].fd, found[i].mode)
            found[i].good = found[i].mount >= 0
    pthread_mutex_lock(&table.lock)
    for i in range(last - first):
        if found[i].good:
            file_one(table, &records.records[records.order[first + i]], &found[i])
    pthread_mutex_unlock(&table.lock)
    for i in range(last - first):
        if found[i].fd >= 0:
            close(found[i].fd)


cdef void file_one(InodeTable *table, Record *record, Found *found) noexcept nogil:
    """Under the lock. An fd that remains in ``found`` is to be closed."""
    cdef char name[NAME_MAX_BYTES + 1]
    cdef Inode *inode
    cdef uint32_t slot = INDEX_NONE
    cdef int mount = found.mount
    cdef bint kept
    if mount < 0:
        # Seen a moment ago by goes_by_handle, and the root keeps its own; others stay as long as an inode of theirs.
        mount = find_mount(table, found.identity.mount_id)
        if mount < 0:
            return
        table.mounts[mount].inodes += 1
    kept = table.mounts[mount].fd < 0
    # Two numbers for one inode (a hard link made into the state of another daemon) stay two: only the first is found by identity.
    if not (kept and (found.fd < 0 or table.must_use_handles or table.fds >= table.max_fds)):
        slot = take_slot(table)
    if slot == INDEX_NONE or fill_slot(table, slot, &found.identity, mount, found.mode, record.id) < 0:
        unuse_mount(table, mount)
        return
    inode = &table.chunks[slot // CHUNK][slot % CHUNK]
    inode.flags = INODE_LOOKED_UP
    inode.nlookup = record.refcount - record.children
    inode.pins = 1 if record.refcount == record.children else 0
    if record.name_length:
        # SAFETY: as in look_in.
        memcpy(name, record.name, record.name_length)
        name[record.name_length] = 0
        set_hint(inode, record.parent, name)
    if kept:
        inode.fd = found.fd
        inode.flags |= INODE_KEEPS_FD
        table.fds += 1
        found.fd = -1
    elif found.fd >= 0:
        found.fd = cache_fd(table, inode, found.fd)
    record.progress = RESTORED
