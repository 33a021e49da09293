# Open files and directories: what the guest knows by an fh.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ferryfs.engine.index cimport Index
from ferryfs.engine.inodes cimport Inode, InodeTable
from ferryfs.engine.threads cimport pthread_mutex_t


cdef enum:
    HANDLE_CHUNK = 256
    HANDLE_DIR = 1
    HANDLE_RELEASED = 2         # the guest has released it; it goes with its last user
    HANDLE_INVALID = 4          # lost in a migration: every access answers `error`
    HANDLE_USED = 8             # not a free slot (virtiofsd hands out fh 0, so the number does not tell)
    HANDLE_NO_NOWAIT = 16       # its file system has no RWF_NOWAIT (tmpfs)
    HANDLE_SYNCS_SOON = 32      # its last FSYNC hardly waited, and nothing was written by it since: a guess
    HANDLE_PLAIN = 64           # opened for reading and nothing else: its fd is left to the next one (inode_return)
    HANDLE_BORROWED = 128       # and was left by an earlier one: it is the inode's (inode_borrow)


# An entry of a half-read directory that the guest has not seen yet, carried over from the source. The rest of such a directory is
# served from here, whatever the destination's file system would say at that offset. Without a name it is no entry, but only a
# place that the guest may go on from.
cdef struct CarriedEntry:
    uint64_t cookie
    uint64_t ino
    uint32_t type
    char *name


cdef struct DirStream:
    pthread_mutex_t lock        # one READDIR at a time: the offset is the fd's. Leaf.
    int64_t position            # behind the last entry that was given; -1: unknown
    int64_t first               # behind the first one that was given since the listing began anew; 0: none was
    uint8_t *rest               # struct linux_dirent64 from `position` on that were read and not given; NULL: the fd stands there
    uint32_t rest_at            # bytes of it given by now
    uint32_t rest_length        # bytes
    CarriedEntry *carried
    uint32_t carried_count


# Guarded by HandleTable.lock, but for fd, inode, dir and id, which never change while it is used, and read_end, which is a hint.
cdef struct Handle:
    uint64_t id                 # fh. In a free slot `users` is the next free one
    Inode *inode                # counted there as one of its opens
    DirStream *dir              # of a directory
    uint64_t read_end           # of the last READ
    int fd
    int flags                   # the guest's open flags in force, without O_CREAT, O_EXCL, O_TRUNC, O_NOCTTY
    uint32_t users              # requests that use it now
    uint8_t state               # HANDLE_…
    uint8_t error               # with HANDLE_INVALID: errno


cdef struct HandleTable:
    pthread_mutex_t lock        # guards all below; InodeTable.lock may be taken inside
    Handle **chunks
    uint32_t chunk_count
    uint32_t slots
    uint32_t free_slot          # slot + 1; 0: none
    Index by_id
    uint64_t next_id
    uint32_t count
    uint64_t kept               # bytes of all DirStream.rest together; without the lock


cdef int handles_init(HandleTable *table) noexcept nogil
cdef void handles_clear(HandleTable *table, InodeTable *inodes) noexcept nogil
cdef void handles_close(HandleTable *table, InodeTable *inodes) noexcept nogil
cdef int handle_add(HandleTable *table, InodeTable *inodes, Inode *inode, int fd, int flags, uint8_t state, uint64_t *id) noexcept nogil
cdef Handle *handle_get(HandleTable *table, uint64_t id) noexcept nogil
cdef void handle_put(HandleTable *table, InodeTable *inodes, Handle *handle) noexcept nogil
cdef int handle_release(HandleTable *table, InodeTable *inodes, uint64_t id) noexcept nogil
cdef Handle *handle_of_inode(HandleTable *table, const Inode *inode) noexcept nogil
cdef void dir_drop_rest(HandleTable *table, DirStream *dir) noexcept nogil
cdef void dir_drop_carried(DirStream *dir) noexcept nogil
cdef void handle_set_flags(HandleTable *table, Handle *handle, int flags) noexcept nogil
cdef void handle_set_state(HandleTable *table, Handle *handle, uint8_t state) noexcept nogil
cdef void handle_clear_state(HandleTable *table, Handle *handle, uint8_t state) noexcept nogil


cdef inline void handle_written(HandleTable *table, Handle *handle) noexcept nogil:
    """Notes that the file's content is about to be changed by this handle: its next FSYNC has something to wait for."""
    if handle.state & HANDLE_SYNCS_SOON:
        handle_clear_state(table, handle, HANDLE_SYNCS_SOON)


# For the migration, under the lock.
cdef uint32_t take_slot(HandleTable *table) noexcept nogil
cdef void free_slot(HandleTable *table, uint32_t slot) noexcept nogil
