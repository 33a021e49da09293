# Inodes that a lazy migration has filed without a look at their files.
from libc.stdint cimport uint32_t

from ferryfs.engine.inodes cimport Inode, InodeTable


cdef int prove(InodeTable *table, Inode *inode) noexcept nogil
cdef uint32_t prove_slots(InodeTable *table, uint32_t first, uint32_t last, uint32_t *failed) noexcept nogil
