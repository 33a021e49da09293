"""Names that can't have changed since they were looked at: those in directories that nobody has changed since.

Some facts about the change time of directories. Making, removing and renaming an entry sets it to the time of day, on every file
system that the kernel itself keeps; nothing sets it to another one. The clock that it is taken from moves in steps of up to 10 ms,
so a change right after another one, or right after we have looked, may not move it. It is therefore believed only where it was old
already when the directory was looked at (``newest``): whatever comes later makes it newer than that. Who sets the system's clock
back, or mounts something over a name, escapes it: ``collect.ground`` sees to both. Network file systems show a change of another
host when they like, and overlayfs has times of two.

    stamps[slot]: 0 nothing is known; t: nobody has changed the directory since before everything in it that is marked
    INODE_PLACED was looked at; -t: it was changed at t, long ago, and what is in it has yet to be looked at again.

INODE_PLACED belongs to the name that the inode has in the table: another name takes it away. So this is exact:

1. the directory is stamped; 2. an inode is marked, and then looked at under its name; 3. the directory has the same change time
still: no name in it has changed from before 1 to now, so the inode is there.

And "now" may be at the destination, where the same kernel runs it: the change times travel (``Folders``), for ``entries`` to ask
once more.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from ferryfs.engine.index cimport INDEX_NONE
from ferryfs.engine.inode_fds cimport inode_fd
from ferryfs.engine.inodes cimport INODE_INVALID, INODE_PLACED, Inode, InodeTable, find_slot, inode_put
from ferryfs.engine.sys cimport (
    AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, Stat, SYS_newfstatat, SYS_statx, Statx, syscall,
)
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock
from ferryfs.migration.columns cimport NOT_MEASURED
from ferryfs.migration.live_slots cimport AT_ODD_PATH, AT_PATH, UNKNOWN, Slots, slot_inode

cdef extern from "<sys/vfs.h>" nogil:
    struct c_statfs "statfs":
        long f_type
    int c_fstatfs "fstatfs"(int, c_statfs *)


cdef enum:
    ROOT = 1
    KIND_FILE = 8               # S_IFREG >> 12
    KIND_DIR = 4
    RUN = 256                   # slots that are judged under one lock
    STATX_CTIME = 0x80


# ---- directories -----------------------------------------------------------------------------------------------------------


cdef void stamp_folders(const Slots *slots, uint32_t first, uint32_t last, int64_t newest) noexcept nogil:
    """Notes the change times of the directories in these slots, where they are not newer than ``newest`` (ns)."""
    cdef Inode *folders[RUN]
    cdef uint32_t places[RUN]
    cdef uint32_t start = first
    cdef uint32_t slot
    cdef uint32_t count
    cdef uint32_t i
    cdef int64_t changed
    while start < last:
        count = 0
        pthread_mutex_lock(&slots.table.lock)
        for slot in range(start, min(start + RUN, last)):
            if slot_inode(slots, slot).id != 0 and slot_inode(slots, slot).kind == KIND_DIR:
                folders[count] = slot_inode(slots, slot)
                folders[count].pins += 1
                places[count] = slot
                count += 1
            else:
                slots.stamps[slot] = 0
        pthread_mutex_unlock(&slots.table.lock)
        for i in range(count):
            changed = changed_ns(slots.table, folders[i])
            inode_put(slots.table, folders[i])
            if changed == 0 or changed > newest:
                slots.stamps[places[i]] = 0
            elif changed == slots.stamps[places[i]] or changed == -slots.stamps[places[i]]:
                slots.stamps[places[i]] = changed
            else:
                slots.stamps[places[i]] = -changed
        start += RUN


cdef uint32_t kind_of_system(int fd) noexcept nogil:
    """f_type of the file system; 0 when it can't be told."""
    cdef c_statfs system
    return <uint32_t>system.f_type if c_fstatfs(fd, &system) == 0 else 0


cdef int64_t changed_ns(InodeTable *table, Inode *folder) noexcept nogil:
    """The change time of a pinned directory, where it proves something; else 0."""
    cdef Statx st
    cdef int fd = inode_fd(table, folder)
    if fd < 0 or kind_of_system(fd) not in (<uint32_t>EXT4, <uint32_t>XFS, <uint32_t>BTRFS, <uint32_t>TMPFS):
        return 0
    if syscall(SYS_statx, fd, b"", AT_EMPTY_PATH, STATX_CTIME, &st) < 0 or not st.mask & STATX_CTIME or st.ctime.sec <= 0:
        return 0
    return st.ctime.sec * 1_000_000_000 + st.ctime.nsec


# ---- what is in them -------------------------------------------------------------------------------------------------------


cdef void take_steady(const Slots *slots, uint32_t first, uint32_t last, bint marks) noexcept nogil:
    """Takes what is known to be in place still, and ``marks`` the others, that are about to be looked at: only by who looks at
    once, or the next turn would take a mark for a look.
    """
    cdef uint32_t start = first
    cdef uint32_t slot
    cdef uint32_t parent_slot
    cdef uint64_t parent
    cdef Inode *inode
    while start < last:
        parent = 0
        parent_slot = INDEX_NONE
        pthread_mutex_lock(&slots.table.lock)
        for slot in range(start, min(start + RUN, last)):
            inode = slot_inode(slots, slot)
            if slots.status[slot] != UNKNOWN or inode.id <= ROOT or inode.name == NULL or inode.flags & INODE_INVALID:
                continue
            if inode.parent != parent:
                parent = inode.parent
                parent_slot = find_slot(slots.table, parent)
            if parent_slot >= slots.count or slots.stamps[parent_slot] == 0:
                continue
            if slots.stamps[parent_slot] > 0 and inode.flags & INODE_PLACED and is_ascii(inode.name):
                slots.status[slot] = AT_PATH
            elif marks:
                inode.flags |= INODE_PLACED
        pthread_mutex_unlock(&slots.table.lock)
        start += RUN


cdef void unmark(const Slots *slots, uint32_t first, uint32_t last, bint missing) noexcept nogil:
    """Takes the mark away: only from what is ``missing``, that was not where it should be; or from all. A mark of another migration
    is none:

    1. a migration marks an inode, looks at it, and is given up; 2. somebody gives its name to another file; 3. the next one stamps
    the directory, and the guest is stopped before it has looked at the inode; 4. the directory has the same change time still.
    """
    cdef uint32_t start = first
    cdef uint32_t slot
    while start < last:
        pthread_mutex_lock(&slots.table.lock)
        for slot in range(start, min(start + RUN, last)):
            if not missing or slots.status[slot] == UNKNOWN:
                slot_inode(slots, slot).flags &= ~INODE_PLACED
        pthread_mutex_unlock(&slots.table.lock)
        start += RUN


cdef bint is_ascii(const char *name) noexcept nogil:
    while name[0]:
        if name[0] & 0x80:
            return False
        name += 1
    return True


# ---- sizes -----------------------------------------------------------------------------------------------------------------


cdef void measure_files(const Slots *slots, uint32_t first, uint32_t last, bint all) noexcept nogil:
    """Notes size and time of change of the files that are in place; unless ``all``, only of those that are open, or without a
    handle, by which they could be told apart. The guest is stopped: nothing else changes the table.
    """
    cdef Inode *folder = NULL
    cdef Inode *inode
    cdef Stat st
    cdef uint64_t parent = 0
    cdef uint32_t slot
    cdef uint32_t parent_slot
    cdef int fd = -1
    for slot in range(first, last):
        inode = slot_inode(slots, slot)
        # On another mount its handle proves nothing where the destination has another file system there. What is open is worth
        # a look: in a block clone all handles are the same, and what the guest has written since is not there.
        if not all and inode.handle_size > 0 and inode.mount == 0:
            if inode.opens == 0 or inode.kind != KIND_FILE or (
                slots.status[slot] not in (AT_PATH, AT_ODD_PATH) and slots.sizes[slot] == 0 and slots.mtimes[slot] == 0
            ):
                slots.sizes[slot] = NOT_MEASURED
                continue
        if slots.status[slot] not in (AT_PATH, AT_ODD_PATH) or inode.kind != KIND_FILE:
            continue
        if inode.parent != parent:
            if folder != NULL:
                inode_put(slots.table, folder)
            folder = NULL
            fd = -1
            parent = inode.parent
            pthread_mutex_lock(&slots.table.lock)
            parent_slot = find_slot(slots.table, parent)
            if parent_slot != INDEX_NONE:
                folder = slot_inode(slots, parent_slot)
                folder.pins += 1
            pthread_mutex_unlock(&slots.table.lock)
            if folder != NULL:
                fd = inode_fd(slots.table, folder)
        if fd >= 0 and syscall(SYS_newfstatat, fd, inode.name, &st, AT_SYMLINK_NOFOLLOW) == 0:
            slots.sizes[slot] = st.st_size
            slots.mtimes[slot] = <int64_t>st.st_mtim.tv_sec * 1_000_000_000 + st.st_mtim.tv_nsec
    if folder != NULL:
        inode_put(slots.table, folder)
