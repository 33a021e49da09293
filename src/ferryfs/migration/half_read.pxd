# What is left of the directories that a guest reads.
from libc.stdint cimport uint64_t

from ferryfs.engine.handles cimport DirStream, HandleTable
from ferryfs.engine.inodes cimport InodeTable


cdef object rest_of(HandleTable *handles, InodeTable *inodes, uint64_t fh, size_t most_bytes)
cdef int carry(DirStream *dir, list entries) except -1
