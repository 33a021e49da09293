"""Names in directories that nobody has changed since the source looked at them: read with the directory, a thousand in a call.

Where a directory has the change time still that it had before the source looked (``steady``, ``folders``), each of its names is the
file that the source says, by its file handle. The stream's word alone would make a hostile one name files beside the share, so
the directory is read: its entries have inode numbers and types. A handle that has the number of an entry leads to that very file, or,
with another generation, to none at all, as one file at most has a number at a time. So:

1. the directory is read; 2. an entry has the name, the type, and the number that is in the handle: it lies in the share; 3. the
directory has the change time that the source noted before it looked: what it saw under the name is there still.

A directory of which the guest holds a small part is not read to its end: looking at the names costs less.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, strncmp

from ferryfs.engine.index cimport INDEX_NONE, hash_u64
from ferryfs.engine.inode_fds cimport inode_fd
from ferryfs.engine.inodes cimport Inode, InodeTable, find_slot, inode_put, slot_at
from ferryfs.engine.sys cimport O_CLOEXEC, O_DIRECTORY, O_RDONLY, SYS_getdents64, close, openat, syscall
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock
from ferryfs.migration.bulk cimport RESTORED, WAITING, Record, Records
from ferryfs.migration.steady cimport EXT4, TMPFS, XFS, changed_ns, kind_of_system


cdef enum:
    KIND_DIR = 4                # S_IFDIR >> 12, and DT_DIR
    FEWEST = 4                  # names for which reading costs less than a look at each
    WORTH = 16                  # entries that may be read for one that is wanted
    READ_BYTES = 1 << 16
    # Types of file handles, in linux/exportfs.h and fs/xfs/xfs_export.h.
    FILEID_INO32_GEN = 1
    XFS_INO64_GEN = 0x81


# struct linux_dirent64, as far as its length is fixed; the name and a NUL follow.
cdef packed struct DirEntry:
    uint64_t ino
    uint64_t offset
    uint16_t length
    uint8_t kind


cdef struct Place:
    Record *record              # NULL: empty
    uint64_t ino                # that its handle has


# The names in one directory that are wanted, by inode number: open addressing.
cdef struct Wanted:
    Place *places
    uint32_t size               # a power of two
    uint32_t count


cdef int see_entries(Records records, InodeTable *table, uint64_t first, uint64_t last) except -1 nogil:
    """Notes the inode number (``seen_ino``) of each record that needs no look, of the directories whose children begin at
    ``first`` to ``last`` in the order. Their own records are restored. -1: no memory.
    """
    cdef uint8_t *buffer = <uint8_t *>malloc(READ_BYTES)
    cdef uint64_t start = first
    cdef uint64_t end
    cdef uint32_t parent
    cdef int result = 0
    if buffer == NULL:
        with gil:
            raise MemoryError
    while start < last and result == 0:
        parent = records.records[records.order[start]].parent_record
        end = start + 1
        while end < records.ordered and records.records[records.order[end]].parent_record == parent:
            end += 1
        # Who began before ``first`` is the neighbour's.
        if parent != INDEX_NONE and (start == 0 or records.records[records.order[start - 1]].parent_record != parent):
            result = see_folder(records, table, &records.records[parent], start, end, buffer)
        start = end
    free(buffer)
    if result < 0:
        with gil:
            raise MemoryError
    return 0


cdef uint64_t seen_entries(Records records, uint64_t first, uint64_t last) noexcept nogil:
    """How many of these, in the order, need no look."""
    cdef uint64_t seen = 0
    cdef uint64_t i
    for i in range(first, last):
        seen += records.records[records.order[i]].seen_ino != 0
    return seen


cdef int see_folder(
    Records records, InodeTable *table, const Record *record, uint64_t first, uint64_t last, uint8_t *buffer
) noexcept nogil:
    """One directory and its children; -1: no memory."""
    cdef Inode *folder = NULL
    cdef Wanted wanted
    cdef uint32_t slot
    cdef bint by_handle = False
    cdef int result = 0
    cdef int fd
    if last - first < FEWEST or record.progress != RESTORED or not record.expected_own or record.changed_ns <= 0:
        return 0
    pthread_mutex_lock(&table.lock)
    slot = find_slot(table, record.id)
    if slot != INDEX_NONE:
        folder = slot_at(table, slot)
        folder.pins += 1
        by_handle = table.mounts[folder.mount].fd >= 0
    pthread_mutex_unlock(&table.lock)
    if folder == NULL:
        return 0
    if by_handle and changed_ns(table, folder) == record.changed_ns:
        wanted.places = NULL
        fd = inode_fd(table, folder)
        result = list_wanted(records, kind_of_system(fd), first, last, &wanted)
        if result == 0 and wanted.count >= FEWEST:
            read_folder(fd, buffer, &wanted)
            if changed_ns(table, folder) != record.changed_ns:
                forget(&wanted)
        free(wanted.places)
    inode_put(table, folder)
    return result


cdef int list_wanted(Records records, uint32_t system, uint64_t first, uint64_t last, Wanted *wanted) noexcept nogil:
    """The children that may need no look: no directories, which have to be opened anyway. 0, or -1: no memory."""
    cdef Record *record
    cdef uint64_t ino
    cdef uint64_t i
    cdef uint32_t place
    wanted.count = 0
    wanted.size = 8
    while wanted.size < 2 * (last - first):
        wanted.size *= 2
    wanted.places = <Place *>calloc(wanted.size, sizeof(Place))
    if wanted.places == NULL:
        return -1
    for i in range(first, last):
        record = &records.records[records.order[i]]
        if record.progress != WAITING or not record.told or not record.expected_own or record.kind == KIND_DIR:
            continue
        ino = handle_ino(system, record)
        if ino != 0:
            place = hash_u64(ino) & (wanted.size - 1)
            while wanted.places[place].record != NULL:
                place = (place + 1) & (wanted.size - 1)
            wanted.places[place].record = record
            wanted.places[place].ino = ino
            wanted.count += 1
    return 0


cdef uint64_t handle_ino(uint32_t system, const Record *record) noexcept nogil:
    """The inode number in the file handle that the trailer expects; 0 where we don't know how it is written there."""
    cdef uint32_t words[3]
    cdef uint64_t number = 0
    if record.expected_fid:
        return 0
    # SAFETY: each reads as many bytes as the handle has.
    if system == EXT4 and record.expected_type == FILEID_INO32_GEN and record.expected_size == 8:
        # Number, generation.
        memcpy(words, record.expected, 8)
        number = words[0]
    elif system == XFS and record.expected_type == XFS_INO64_GEN and record.expected_size == 12:
        # Number in 64 bits, generation.
        memcpy(&number, record.expected, 8)
    elif system == TMPFS and record.expected_type == FILEID_INO32_GEN and record.expected_size == 12:
        # Generation, and the number's two halves.
        memcpy(words, record.expected, 12)
        number = <uint64_t>words[2] << 32 | words[1]
    return number


cdef void read_folder(int fd, uint8_t *buffer, Wanted *wanted) noexcept nogil:
    """Notes which of the wanted names are there, as far as the directory can be read."""
    cdef DirEntry entry
    cdef uint64_t budget = <uint64_t>WORTH * wanted.count
    cdef uint64_t seen = 0
    cdef long got
    cdef long at
    cdef int readable = openat(fd, b".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    if readable < 0:
        return
    while seen < budget:
        got = syscall(SYS_getdents64, readable, buffer, READ_BYTES)
        if got <= 0:
            break
        at = 0
        while at < got:
            # SAFETY: the kernel gives whole entries, each as long as it says, the name in it with a NUL behind it.
            memcpy(&entry, buffer + at, sizeof(DirEntry))
            note(wanted, &entry, buffer + at + sizeof(DirEntry))
            at += entry.length
            seen += 1
    close(readable)


cdef void note(Wanted *wanted, const DirEntry *entry, const uint8_t *name) noexcept nogil:
    cdef uint32_t place = hash_u64(entry.ino) & (wanted.size - 1)
    cdef Record *record
    while wanted.places[place].record != NULL:
        record = wanted.places[place].record
        # SAFETY: `name` ends with a NUL, so that no byte behind it is looked at; a record's name has none.
        if (
            wanted.places[place].ino == entry.ino and record.kind == entry.kind
            and strncmp(<const char *>record.name, <const char *>name, record.name_length) == 0
            and name[record.name_length] == 0
        ):
            record.seen_ino = entry.ino
        place = (place + 1) & (wanted.size - 1)


cdef void forget(Wanted *wanted) noexcept nogil:
    cdef uint32_t place
    for place in range(wanted.size):
        if wanted.places[place].record != NULL:
            wanted.places[place].record.seen_ino = 0
