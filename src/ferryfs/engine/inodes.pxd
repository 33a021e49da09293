# The inode table: what the guest knows by a nodeid, and how we find it on the host.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ferryfs.engine.index cimport INDEX_NONE, Index, hash_u64, index_next
from ferryfs.engine.sys cimport MAX_HANDLE_SIZE
from ferryfs.engine.threads cimport pthread_mutex_t


# Some facts about identity. The number of an inode is used again as soon as the inode is gone; its file handle carries the
# generation too and is not. Making a handle (name_to_handle_at) needs no privilege and no open. While we hold an fd the inode
# can't go, so (device, number) is exact then; where a file system makes no handles we always hold one.
cdef struct Identity:
    uint64_t mount_id
    uint64_t dev
    uint64_t ino
    int32_t handle_type
    uint32_t handle_size            # 0: this file system makes no handles
    uint8_t handle[MAX_HANDLE_SIZE]


cdef enum:
    INODE_KEEPS_FD = 1              # fd is how we hold it, not a cached one
    INODE_RECENT = 2                # its cached fd was used since the clock's hand passed
    INODE_INVALID = 4               # lost in a migration: every access answers `error`
    INODE_HOLLOW = 8                # its content was lost in a migration: it has attributes, and can't be opened
    INODE_PLACED = 16               # its name was looked at since the source last noted when its directory was changed (migration)
    INODE_UNPROVEN = 32             # taken from a migration without a look (unproven): no fd, dev, ino; its kind is hearsay
    INODE_LOOKED_UP = 64            # the guest found it by name, so that a process of it may hold it by O_PATH alone
    INODE_READABLE = 128            # fd is open for reading, not O_PATH; while the inode has an open file, that may be using it
    INLINE_HANDLE = 16              # bytes of a handle that need no allocation: ext4 has 8, xfs 12
    CHUNK = 1024                    # inodes allocated at a time; a chunk never moves
    MAX_MOUNTS = 4096               # different mounts with live inodes
    CLOCK_SIZE_MAX = 1024           # cached fds: the working set of a busy guest
    KIND_SHIFT = 12                 # from a mode's S_IFMT bits to Inode.kind


# All fields are guarded by InodeTable.lock, but for: id, mount, kind, dev, ino, handle_*, which never change while it is pinned (once
# it is proven), and fd, which never changes once set while it is pinned.
cdef struct Inode:
    uint64_t id                     # nodeid; 0: a free slot
    uint64_t nlookup                # what the guest will forget
    uint64_t ino
    uint64_t dev
    uint64_t parent                 # where it was last seen: a hint, checked by whoever uses it. In a free slot: the next free one
    char *name                      # its name there, NUL-terminated; NULL: unknown
    uint8_t handle_store[INLINE_HANDLE]     # the handle, or a pointer to it when it is longer
    int32_t handle_type
    uint32_t hash                   # of its identity
    int fd                          # O_PATH, or with INODE_READABLE O_RDONLY; -1: none
    uint32_t pins                   # requests that use it now
    uint32_t opens                  # open files that use it
    uint32_t clock                  # its place in the cache of fds + 1; 0: not there
    uint16_t mount                  # index in InodeTable.mounts
    uint8_t handle_size
    uint8_t kind                    # S_IFMT bits >> 12
    uint8_t flags
    uint8_t error                   # with INODE_INVALID: errno


cdef struct Mount:
    uint64_t id                     # as name_to_handle_at and statx give it
    int sync_fd                     # of a file or directory of it, opened when it was first met; -1: there is none
    int fd                          # sync_fd, for open_by_handle_at; -1: handles can't be opened here
    int remote                      # of a network file system: this host has a cache of its own
    int keeps_open                  # a file of it that was closed may stay open for the next time (inode_return)
    uint32_t inodes                 # that lie here; 0: a free slot (but for slot 0, the root's)


cdef struct InodeTable:
    pthread_mutex_t lock            # guards all below and the inodes; taken after HandleTable.lock, never before it
    Inode **chunks
    uint32_t chunk_count
    uint32_t slots                  # used or free
    uint64_t free_slot              # slot + 1; 0: none
    Index by_id
    Index by_identity
    uint64_t next_id
    uint32_t count
    Mount *mounts
    uint32_t mount_count
    uint32_t *clock                 # slots with a cached fd, + 1
    uint32_t clock_size
    uint32_t clock_hand
    int proc_fd                     # /proc/self/fd
    int use_handles                 # hold inodes by handle where the mount can
    int must_use_handles
    int unique_mount_ids            # the kernel has AT_HANDLE_MNT_ID_UNIQUE
    uint32_t max_fds                # open files, kept fds and those of mounts together; more is ENFILE
    uint32_t fds                    # of these in use now; guarded by lock
    int (*prove)(InodeTable *, Inode *) noexcept nogil      # of an INODE_UNPROVEN that is pinned: an O_PATH fd, or -errno


cdef int inodes_init(
    InodeTable *table, int root_fd, int proc_fd, uint32_t cached_fds, bint use_handles, bint must_use_handles
) noexcept nogil
cdef void inodes_close(InodeTable *table) noexcept nogil
cdef void inodes_clear(InodeTable *table) noexcept nogil
cdef Inode *inode_get(InodeTable *table, uint64_t id) noexcept nogil
cdef int inode_get_fd(InodeTable *table, uint64_t id, Inode **found) noexcept nogil
cdef void inode_put(InodeTable *table, Inode *inode) noexcept nogil
cdef Inode *inode_known(InodeTable *table, const Identity *identity, uint64_t parent, const char *name) noexcept nogil
cdef int inode_add(
    InodeTable *table, const Identity *identity, int fd, uint16_t mode, uint64_t parent, const char *name, Inode **found
) noexcept nogil
cdef int inode_add_open(
    InodeTable *table, const Identity *identity, int fd, uint16_t mode, uint64_t parent, const char *name, Inode **found
) noexcept nogil
cdef int inode_add_unopened(
    InodeTable *table, const Identity *identity, const Inode *parent, uint16_t mode, const char *name, Inode **found
) noexcept nogil
cdef void inode_forget(InodeTable *table, uint64_t id, uint64_t count) noexcept nogil
cdef void inode_opened(InodeTable *table, Inode *inode) noexcept nogil
cdef void inode_closed(InodeTable *table, Inode *inode) noexcept nogil
cdef void inode_hint(InodeTable *table, Inode *inode, uint64_t parent, const char *name) noexcept nogil


# For the migration, which writes the table to a stream and fills it from one. All under the lock.
cdef Inode *find_identity(const InodeTable *table, const Identity *identity, uint32_t mount) noexcept nogil
cdef uint32_t take_slot(InodeTable *table) noexcept nogil
cdef void reserve_slots(InodeTable *table, uint32_t more) noexcept nogil
cdef int fill_slot(
    InodeTable *table, uint32_t slot, const Identity *identity, int mount, uint16_t mode, uint64_t id
) noexcept nogil
cdef int fill_hashed(
    InodeTable *table, uint32_t slot, const Identity *identity, uint32_t hash, int mount, uint16_t mode, uint64_t id
) noexcept nogil
cdef void set_hint(Inode *inode, uint64_t parent, const char *name) noexcept nogil


cdef inline const uint8_t *inode_handle(const Inode *inode) noexcept nogil:
    """The bytes of its file handle; handle_size says how many (0: none)."""
    if inode.handle_size <= INLINE_HANDLE:
        return inode.handle_store
    return (<const uint8_t **>inode.handle_store)[0]


cdef inline void inode_proven(Inode *inode, uint64_t dev, uint64_t ino, uint16_t mode) noexcept nogil:
    """Takes down what the file of an unproven inode is; under the lock."""
    inode.dev = dev
    inode.ino = ino
    inode.kind = <uint8_t>(mode >> KIND_SHIFT)
    inode.flags &= <uint8_t>~INODE_UNPROVEN


cdef inline Inode *slot_at(const InodeTable *table, uint32_t slot) noexcept nogil:
    return &table.chunks[slot // CHUNK][slot % CHUNK]


cdef inline uint32_t find_slot(const InodeTable *table, uint64_t id) noexcept nogil:
    """The slot of a nodeid, or INDEX_NONE; under the lock."""
    cdef uint32_t hash = hash_u64(id)
    cdef uint32_t cursor = INDEX_NONE
    cdef uint32_t slot
    while True:
        slot = index_next(&table.by_id, hash, &cursor)
        if slot == INDEX_NONE or slot_at(table, slot).id == id:
            return slot
