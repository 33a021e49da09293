"""The driver side of a split virtqueue, for the other compiled modules of the front-end.

Terms and layouts: virtio 1.2, sections 2.7.5 (descriptors) to 2.7.10 (notification suppression).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ferryfs.frontend.ram cimport GuestRam

cdef extern from "<pthread.h>":
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attr) nogil
    int pthread_mutex_destroy(pthread_mutex_t *mutex) nogil
    int pthread_mutex_lock(pthread_mutex_t *mutex) nogil
    int pthread_mutex_unlock(pthread_mutex_t *mutex) nogil

cdef enum:
    DESC_F_NEXT = 1
    DESC_F_WRITE = 2
    DESC_F_INDIRECT = 4
    AVAIL_F_NO_INTERRUPT = 1
    USED_F_NO_NOTIFY = 1

ctypedef packed struct VirtqDesc:
    uint64_t addr
    uint32_t len
    uint16_t flags
    uint16_t next

cdef struct Segment:
    uint64_t gpa
    uint32_t length

cdef struct Ring:
    pthread_mutex_t lock
    # The three areas, in our own mapping of the guest memory. They live as long as the GuestRam that the queue holds.
    VirtqDesc *desc
    uint16_t *avail
    uint16_t *used
    uint16_t num
    bint event_idx
    int kick_fd
    int call_fd
    # Under lock: all below. The guest memory is shared with a back-end that may be wrong, so nothing that we wrote is
    # read back from there: free list, chain lengths and indices are our own.
    uint16_t avail_idx
    uint16_t kicked_idx
    uint16_t last_used
    uint16_t free_head
    uint16_t free_count
    uint16_t *next_free
    uint16_t *chain_count  # descriptors of the chain that starts here; 0: not in flight
    uint32_t *cookie  # what the caller of ring_add wants back with the answer
    uint8_t *raw  # published by hand: its descriptors are the caller's

# Head of the new chain, published but not kicked; -ENOSPC when the ring has no room (the caller waits for an answer).
cdef int ring_add(
    Ring *ring, const Segment *segments, int readable, int writable,
    VirtqDesc *table, uint64_t table_gpa, uint32_t cookie
) noexcept nogil
# Notifies the back-end if it asked for that since the last kick. 0 or -errno.
cdef int ring_kick(Ring *ring, bint force) noexcept nogil
# Next answered head, -EAGAIN when there is none, -EPROTO when the back-end answers what is not in flight.
cdef int ring_take(Ring *ring, uint32_t *used_length, uint32_t *cookie) noexcept nogil
# Asks for a call at the next answer; true when an answer is there already and no call may come for it.
cdef bint ring_arm(Ring *ring) noexcept nogil
# Asks for no calls: for a driver that polls.
cdef void ring_disarm(Ring *ring) noexcept nogil
cdef int ring_in_flight(Ring *ring) noexcept nogil

cdef class DriverQueue:
    cdef Ring ring
    cdef readonly GuestRam ram
    cdef readonly int size
    cdef readonly uint64_t desc_gpa
    cdef readonly uint64_t avail_gpa
    cdef readonly uint64_t used_gpa
    cdef readonly int kick_fd
    cdef readonly int call_fd
    cdef readonly int err_fd
    cdef readonly bint event_idx
    cdef readonly bint indirect
    cdef readonly uint64_t slot_bytes
    cdef uint64_t _slots_gpa
    cdef list _free_slots
    cdef dict _pending
    cdef dict _done
