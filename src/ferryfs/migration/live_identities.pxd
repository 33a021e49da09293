# The source's inode table as records of the trailer.
from libc.stdint cimport uint32_t

from ferryfs.migration.live_slots cimport Slots


cdef object identity_payloads(object owner, const Slots *slots, list mounts, bint named, uint32_t at_once, set handleless)
