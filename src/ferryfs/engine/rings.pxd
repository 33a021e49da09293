# Rings coming, pausing and going. struct Ring is in workers.pxd.
from ferryfs.engine.workers cimport Pool, Ring


cdef int ring_init(Ring *ring, Pool *pool, int index) noexcept nogil
cdef void ring_close(Ring *ring) noexcept nogil
cdef int ring_set_kick(Ring *ring, int fd) noexcept nogil
cdef void ring_replace_call(Ring *ring, int fd, bint may_block) noexcept nogil
cdef void ring_replace_err(Ring *ring, int fd) noexcept nogil
cdef void ring_finish(Ring *ring) noexcept nogil
cdef void ring_pause(Ring *ring) noexcept nogil
cdef int ring_resume(Ring *ring) noexcept nogil
