# What a source knows of the slots of its inode table: arrays beside them, so that no inode needs an object.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ferryfs.engine.inodes cimport CHUNK, Inode, InodeTable


cdef enum:
    ROOT = 1                        # FUSE_ROOT_ID
    NAME_ROOM = 4096                # for a name and its NUL

# The status of a slot.
cdef enum:
    ABSENT = 0                      # nothing that the guest holds
    UNKNOWN = 1                     # not looked at, or not found where it was last seen
    AT_PATH = 2                     # in the parent, under the name, that the table has
    AT_ODD_PATH = 3                 # the same, but the name is not UTF-8
    LEFT_OUT = 4                    # travels in the trailer alone


# Beside each other by slot.
cdef struct Slots:
    InodeTable *table
    uint32_t count
    uint8_t *status
    uint32_t *children              # that are located by Path
    uint64_t *sizes
    int64_t *mtimes
    int64_t *stamps                 # of directories, see ``steady``


cdef inline Inode *slot_inode(const Slots *slots, uint32_t slot) noexcept nogil:
    return &slots.table.chunks[slot // CHUNK][slot % CHUNK]
