"""Filing the inodes of a state that can wait for their first use (``--migration-restore=lazy``), and proving them later.

What can wait is held by a file handle of the share's own mount, and the stream says where it lies: ``engine.unproven`` says what is
proven at its first use. What can't wait goes the exact way with all directories that lead to it (``refill``, ``restore``): open
files, and whatever nothing in the stream proves.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcmp, memcpy

from ferryfs.engine.device cimport Device
from ferryfs.engine.identity cimport hash_identity
from ferryfs.engine.index cimport INDEX_NONE, hash_u64, index_expect, index_reserve
from ferryfs.engine.inodes cimport (
    INODE_LOOKED_UP, INODE_UNPROVEN, KIND_SHIFT, Identity, Inode, InodeTable, fill_hashed, reserve_slots, slot_at, take_slot,
)
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock
from ferryfs.engine.unproven cimport prove as prove_one, prove_slots
from ferryfs.migration.bulk cimport FILE_HANDLE, PATH, RESTORED, WAITING, Record, Records
from ferryfs.migration.cursor cimport Cursor, ToldHandle, read_handle


cdef enum:
    ROUND = 1024                # records that are filed under one lock
    AHEAD = 16                  # so many records before it is filed, the memory that takes it is fetched
    OWN_MOUNT = 0               # the share's own, in the table


def defer(Records records not None, Device device not None, opened, uint64_t own_mount):
    """Files what can wait, and leaves the rest to ``refill``; how many can.

    For a load whose directory is proven to be the source's, after ``Records.expect`` and ``claim``. ``opened``: nodeids of open
    files. ``own_mount``: the source's id of the share's own mount. The rings must be stopped.
    """
    cdef InodeTable *table = &device.server.inodes
    cdef uint32_t number
    cdef uint64_t filed
    # Where handles can't be opened, an inode is held by an fd, for which its file has to be found at once.
    if table.mounts[OWN_MOUNT].fd < 0:
        return 0
    for id in opened:
        number = records.find(id)
        if number != INDEX_NONE:
            keep_for_now(records, number)
    table.prove = prove_one
    index_reserve(&table.by_id, records.count)
    index_reserve(&table.by_identity, records.count)
    reserve_slots(table, <uint32_t>records.count)
    with nogil:
        sort_out(records, own_mount)
        filed = file_all(records, table)
    return filed


cdef void keep_for_now(Records records, uint32_t number) noexcept nogil:
    """What must be restored at once needs the directories that lead to it."""
    while number != INDEX_NONE and not records.records[number].now:
        records.records[number].now = True
        number = records.records[number].parent_record


cdef void sort_out(Records records, uint64_t own_mount) noexcept nogil:
    cdef uint64_t i
    for i in range(records.count):
        if not can_wait(records, &records.records[i], own_mount):
            keep_for_now(records, <uint32_t>i)


cdef bint can_wait(Records records, const Record *record, uint64_t own_mount) noexcept nogil:
    cdef ToldHandle told
    cdef Cursor cursor
    # One without look-ups only leads to others.
    if record.progress != WAITING or record.parent_record == INDEX_NONE or record.refcount == record.children:
        return False
    if not record.expected_own or record.expected == NULL or record.expected_fid or record.expected_size == 0:
        return False
    if record.location != PATH and record.location != FILE_HANDLE:
        return False
    if record.location == FILE_HANDLE:
        cursor = records.behind(record.located)
    elif record.compare != NULL:
        cursor = records.behind(record.compare)
    else:
        return True
    # What the state says and what the trailer says must be one.
    if read_handle(&cursor, &told) < 0 or (record.location == FILE_HANDLE and told.mount != own_mount):
        return False
    return (
        told.size == record.expected_size and told.type == record.expected_type
        and memcmp(told.bytes, record.expected, told.size) == 0
    )


cdef uint64_t file_all(Records records, InodeTable *table) noexcept nogil:
    """Files what can wait. What there is no memory for is left.

    The two indices are larger than the processor's cache, and a record may belong anywhere in them: so the cells of each are asked
    for some records ahead.
    """
    cdef uint32_t hashes[AHEAD]
    cdef uint64_t first = 0
    cdef uint64_t filed = 0
    cdef uint64_t ahead = 0
    cdef uint64_t i
    while first < records.count:
        pthread_mutex_lock(&table.lock)
        for i in range(first, min(first + ROUND, records.count)):
            while ahead < records.count and ahead < i + AHEAD:
                if not records.records[ahead].now:
                    hashes[ahead % AHEAD] = expect_one(table, &records.records[ahead])
                ahead += 1
            if not records.records[i].now and file_one(table, &records.records[i], hashes[i % AHEAD]) == 0:
                records.records[i].progress = RESTORED
                filed += 1
        pthread_mutex_unlock(&table.lock)
        first += ROUND
    return filed


cdef uint32_t expect_one(const InodeTable *table, const Record *record) noexcept nogil:
    """The hash of its identity; what files it will be there when it is needed."""
    cdef Identity identity
    cdef uint32_t hash
    identify_one(record, &identity)
    hash = hash_identity(&identity, OWN_MOUNT)
    index_expect(&table.by_id, hash_u64(record.id))
    index_expect(&table.by_identity, hash)
    return hash


cdef inline void identify_one(const Record *record, Identity *identity) noexcept nogil:
    identity.dev = 0
    identity.ino = 0
    identity.handle_type = record.expected_type
    identity.handle_size = record.expected_size
    # SAFETY: expected_size is at most MAX_HANDLE_SIZE (trailer.validate), and the trailer has as many bytes there.
    memcpy(identity.handle, record.expected, record.expected_size)


cdef int file_one(InodeTable *table, const Record *record, uint32_t hash) noexcept nogil:
    """Under the lock; 0, or -1 when there is no memory."""
    cdef Identity identity
    cdef Inode *inode
    cdef uint32_t slot = take_slot(table)
    if slot == INDEX_NONE:
        return -1
    identify_one(record, &identity)
    if fill_hashed(table, slot, &identity, hash, OWN_MOUNT, <uint16_t>record.kind << KIND_SHIFT, record.id) < 0:
        return -1
    table.mounts[OWN_MOUNT].inodes += 1
    inode = slot_at(table, slot)
    inode.flags = INODE_UNPROVEN | INODE_LOOKED_UP
    inode.nlookup = record.refcount - record.children
    inode.parent = record.parent
    # No memory: no hint, as in set_hint.
    inode.name = <char *>malloc(record.name_length + 1)
    if inode.name != NULL:
        # SAFETY: read_name and Records.claim saw to it that so many bytes are within what the records hold.
        memcpy(inode.name, record.name, record.name_length)
        inode.name[record.name_length] = 0
    return 0


# ---- later -----------------------------------------------------------------------------------------------------------------


def unproven(Device device not None):
    """The nodeids of the inodes that nobody has proven yet."""
    cdef InodeTable *table = &device.server.inodes
    cdef uint32_t slot
    found = []
    pthread_mutex_lock(&table.lock)
    for slot in range(table.slots):
        if slot_at(table, slot).id != 0 and slot_at(table, slot).flags & INODE_UNPROVEN:
            found.append(slot_at(table, slot).id)
    pthread_mutex_unlock(&table.lock)
    return found


def slots(Device device not None):
    """How many slots the device's table has."""
    return device.server.inodes.slots


def prove(Device device not None, uint32_t first, uint32_t last):
    """Proves the unproven inodes of slots ``first`` to ``last``, while the guest works on: (how many, how many can't be)."""
    cdef uint32_t failed = 0
    cdef uint32_t proven
    with nogil:
        proven = prove_slots(&device.server.inodes, first, last, &failed)
    return proven, failed
