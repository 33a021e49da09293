from ferryfs.engine.server cimport Server
from ferryfs.engine.workers cimport MAX_RINGS, Pool, Ring
from ferryfs.ring.memory cimport GuestMemory


cdef class Device:
    cdef Server server
    cdef Pool pool
    cdef Ring *rings
    cdef readonly int queue_count
    cdef readonly GuestMemory memory
    cdef object addresses           # for each ring: None or (desc, used, avail, log address, log used)
    cdef bint opened
    cdef bint closed

    cdef Ring *ring(self, index) except NULL
    cdef int attach(self, int index, bint fresh, bint may_lack) except -1
    cdef int pause_all(self) except -1
    cdef int resume_all(self) except -1
    cdef int resume(self, int index) except -1
    cdef int halt(self, index) except -1
