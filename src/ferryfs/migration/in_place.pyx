"""Whether an inode is still where the guest last found it: under that name, in that directory.

Safe while the guest works on: both are pinned while they are looked at, and slots are looked up under the table's lock.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, strlen, strncmp

from ferryfs.engine.identity cimport identify, identify_stat
from ferryfs.engine.index cimport INDEX_NONE
from ferryfs.engine.inode_fds cimport inode_fd
from ferryfs.engine.inodes cimport INODE_INVALID, Identity, Inode, InodeTable, find_slot, inode_handle, inode_put
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock
from ferryfs.migration.live_slots cimport ABSENT, AT_ODD_PATH, AT_PATH, NAME_ROOM, ROOT, UNKNOWN, Slots, slot_inode


cdef void check_slot(const Slots *slots, uint32_t slot) noexcept nogil:
    """The hint may be of any age: the name in the parent must be this very inode now."""
    cdef char name[NAME_ROOM]
    cdef Identity identity
    cdef uint16_t mode = 0
    cdef InodeTable *table = slots.table
    cdef Inode *inode
    cdef Inode *parent = NULL
    cdef uint64_t mount = 0
    cdef uint32_t parent_slot
    cdef size_t length
    cdef int fd
    cdef int result
    pthread_mutex_lock(&table.lock)
    inode = slot_inode(slots, slot)
    if inode.id == 0:
        slots.status[slot] = ABSENT
    elif inode.id != ROOT and inode.name != NULL and inode.parent != inode.id and not inode.flags & INODE_INVALID:
        length = strlen(inode.name)
        parent_slot = find_slot(table, inode.parent)
        if (
            parent_slot != INDEX_NONE and parent_slot < slots.count and 0 < length < NAME_ROOM
            and not may_be_hidden(inode.name)
        ):
            memcpy(name, inode.name, length + 1)
            mount = table.mounts[inode.mount].id
            parent = slot_inode(slots, parent_slot)
            parent.pins += 1
            inode.pins += 1
    pthread_mutex_unlock(&table.lock)
    if parent == NULL:
        return
    fd = inode_fd(table, parent)
    if fd >= 0:
        result = identify(table, fd, name, 0, &identity)
        if result == 0 and identity.handle_size == 0:
            result = identify_stat(table, fd, name, 0, &identity, &mode)
        if result == 0 and is_it(inode, mount, &identity):
            slots.status[slot] = AT_PATH if is_ascii(name) else UNKNOWN
            if slots.status[slot] == UNKNOWN:
                slots.status[slot] = AT_PATH if is_utf8(name) else AT_ODD_PATH
    inode_put(table, parent)
    inode_put(table, inode)


cdef bint is_ascii(const char *name) noexcept nogil:
    while name[0]:
        if name[0] & 0x80:
            return False
        name += 1
    return True


cdef bint may_be_hidden(const char *name) noexcept nogil:
    """Whether a file of this name may be one that was removed while open (``share.is_hidden`` decides)."""
    return strncmp(name, ".nfs", 4) == 0 or strncmp(name, ".fuse_hidden", 12) == 0


cdef bint is_it(const Inode *inode, uint64_t mount, const Identity *identity) noexcept nogil:
    """Whether an identity that was just made is the inode's; `mount` is the inode's mount id."""
    if identity.mount_id != mount or identity.handle_size != inode.handle_size:
        return False
    if identity.handle_size == 0:
        return identity.ino == inode.ino and identity.dev == inode.dev
    return (
        identity.handle_type == inode.handle_type
        and memcmp(identity.handle, inode_handle(inode), identity.handle_size) == 0
    )


cdef bint is_utf8(const char *name) noexcept nogil:
    with gil:
        try:
            (<bytes>name).decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True
