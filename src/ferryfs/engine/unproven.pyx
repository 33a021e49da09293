"""Inodes that a lazy migration has filed without a look: what is proven at the first use of each.

Some facts about them. A file handle names one file for ever: its number is used again, its generation is not. So an inode that is
held by its handle is never another file, whatever the host has done since, and a handle whose file is gone gives ESTALE. But
open_by_handle_at reaches the whole file system, and the stream is to be trusted with no more than where to look. What has to be
shown is therefore that the file lies in the share and still has a name, and what type it is: a device acts when it is opened. A
directory leads up to the root by "..". A file has no way up: the name by which it was last known leads to it, in a directory for
which the same was shown.

One that can't be shown to be there stays unproven, and each use of it gives ESTALE, upon which a guest looks its name up anew. A
look-up that meets its handle is proof as well (inodes), so it gets the number that the guest knows.
"""

from libc.errno cimport EMFILE, ENFILE, ENOMEM, ESTALE, errno
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, strlen

from ferryfs.engine.identity cimport identify, is_same
from ferryfs.engine.index cimport INDEX_NONE
from ferryfs.engine.inode_fds cimport inode_fd, open_handle
from ferryfs.engine.inodes cimport (
    INODE_UNPROVEN, KIND_SHIFT, Identity, Inode, InodeTable, find_slot, inode_proven, inode_put, slot_at,
)
from ferryfs.engine.sys cimport (
    O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_PATH, S_IFDIR, SYS_fstat, Stat, close, openat, syscall,
)
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock


cdef enum:
    NAME_ROOM = 4096


cdef int prove(InodeTable *table, Inode *inode) noexcept nogil:
    """InodeTable.prove: an O_PATH fd of a pinned inode, the caller's, once it is shown to be a file of the share; or -errno.

    Whatever is not ESTALE says nothing of the file: the next use asks again. Several threads may prove the same one.
    """
    cdef Stat st
    cdef int result
    cdef int fd = open_handle(table, inode, O_PATH | O_NOFOLLOW)
    if fd < 0:
        return fd
    if syscall(SYS_fstat, fd, &st) < 0:
        result = -errno
    elif st.st_nlink == 0 or st.st_mode >> KIND_SHIFT != inode.kind:
        result = -ESTALE
    elif inode.kind == S_IFDIR >> KIND_SHIFT:
        result = is_below_root(table, fd, &st)
    else:
        result = is_named(table, inode)
    if result < 0:
        close(fd)
        return result
    pthread_mutex_lock(&table.lock)
    inode_proven(inode, st.st_dev, st.st_ino, <uint16_t>st.st_mode)
    pthread_mutex_unlock(&table.lock)
    return fd


cdef int failure() noexcept nogil:
    """What an error of a call on the way says: -errno when we have run short of something, else that the way ends here."""
    return -errno if errno == EMFILE or errno == ENFILE or errno == ENOMEM else -ESTALE


cdef int is_below_root(InodeTable *table, int fd, const Stat *its) noexcept nogil:
    """0 when a directory (``fd``, with its attributes) leads up to the root; or -errno."""
    cdef const Inode *root
    cdef Stat here = its[0]
    cdef Stat below
    cdef int at = fd
    cdef int above
    cdef int result = 0
    # The table of chunks moves when it grows; a chunk does not.
    pthread_mutex_lock(&table.lock)
    root = slot_at(table, 0)
    pthread_mutex_unlock(&table.lock)
    while here.st_ino != root.ino or here.st_dev != root.dev:
        below = here
        above = openat(at, "..", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        result = failure() if above < 0 else 0
        if at != fd:
            close(at)
        at = above
        if result == 0 and syscall(SYS_fstat, at, &here) < 0:
            result = failure()
        if result == 0 and here.st_ino == below.st_ino and here.st_dev == below.st_dev:
            # The file system's own root, or the process's.
            result = -ESTALE
        if result < 0:
            break
    if at >= 0 and at != fd:
        close(at)
    return result


cdef int is_named(InodeTable *table, Inode *inode) noexcept nogil:
    """0 when the name by which a file was last known leads to it; or -errno."""
    cdef char name[NAME_ROOM]
    cdef Identity identity
    cdef Inode *parent = NULL
    cdef uint32_t slot
    cdef int fd
    cdef int result = -ESTALE
    pthread_mutex_lock(&table.lock)
    slot = find_slot(table, inode.parent) if inode.name != NULL and strlen(inode.name) < NAME_ROOM else INDEX_NONE
    # A parent that is no directory has no names in it; and the proof of a directory asks for no parent, so this ends.
    if slot != INDEX_NONE and slot_at(table, slot).kind == S_IFDIR >> KIND_SHIFT:
        parent = slot_at(table, slot)
        parent.pins += 1
        memcpy(name, inode.name, strlen(inode.name) + 1)
    pthread_mutex_unlock(&table.lock)
    if parent == NULL:
        return -ESTALE
    fd = inode_fd(table, parent)
    if fd == -EMFILE or fd == -ENFILE or fd == -ENOMEM:
        result = fd
    elif fd >= 0 and identify(table, fd, name, 0, &identity) == 0:
        if is_same(inode, &identity, inode.mount) and identity.mount_id == table.mounts[inode.mount].id:
            result = 0
    inode_put(table, parent)
    return result


cdef uint32_t prove_slots(InodeTable *table, uint32_t first, uint32_t last, uint32_t *failed) noexcept nogil:
    """Proves what is unproven in slots ``first`` to ``last``: how many; ``failed`` is counted up by those that can't be."""
    cdef uint32_t slot = first
    cdef uint32_t proven = 0
    cdef Inode *inode
    cdef int fd
    while slot < last:
        inode = NULL
        pthread_mutex_lock(&table.lock)
        if slot < table.slots and slot_at(table, slot).id != 0 and slot_at(table, slot).flags & INODE_UNPROVEN:
            inode = slot_at(table, slot)
            inode.pins += 1
        pthread_mutex_unlock(&table.lock)
        if inode != NULL:
            # Not by inode_fd: the fds that the guest needs would make way for those of the whole share.
            fd = table.prove(table, inode)
            if fd < 0:
                failed[0] += 1
            else:
                proven += 1
                close(fd)
            inode_put(table, inode)
        slot += 1
    return proven
