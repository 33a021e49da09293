# The device side of one split virtqueue.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ferryfs.ring.chain cimport Chain
from ferryfs.ring.memory cimport GuestMemory, MemoryTable


cdef enum:
    MAX_QUEUE_SIZE = 32768      # virtio 1.2, 2.7
    USED_F_NO_NOTIFY = 1
    AVAIL_F_NO_INTERRUPT = 1
    VRING_F_LOG = 1             # vhost-user, SET_VRING_ADDR


cdef enum:
    QUEUE_EMPTY = 0
    QUEUE_GOT = 1
    QUEUE_BAD_CHAIN = 2         # head is good, the chain is not: answered with length 0; `fault` says what it was
    QUEUE_BROKEN = 3            # the ring itself makes no sense: nothing can be answered


# Owner: the ring's lock (engine). Host pointers are set by queue_attach and gone after queue_detach.
cdef struct Queue:
    uint32_t num                # entries, a power of two up to MAX_QUEUE_SIZE; 0: not set
    uint8_t *desc               # windows: 16 * num
    uint8_t *avail              # 6 + 2 * num
    uint8_t *used               # 6 + 8 * num
    uint64_t used_log           # guest address of the used ring, for the dirty log
    int log_used                # VHOST_VRING_F_LOG
    int event_idx               # VIRTIO_RING_F_EVENT_IDX
    uint16_t last_avail         # next entry of the avail ring to take
    uint16_t next_used          # next entry of the used ring to fill
    uint16_t signalled          # next_used at the last decision to notify
    int signalled_valid         # no: notify at the next opportunity, whatever the guest's event says
    int fault                   # CHAIN_… of the last QUEUE_BAD_CHAIN


cdef int queue_attach(
    Queue *queue, GuestMemory memory, uint64_t desc, uint64_t avail, uint64_t used, bint fresh
) noexcept nogil
cdef void queue_detach(Queue *queue) noexcept nogil
cdef int queue_pop(Queue *queue, const MemoryTable *memory, Chain *chain) noexcept nogil
cdef void queue_push(Queue *queue, const MemoryTable *memory, uint16_t head, uint32_t written) noexcept nogil
cdef bint queue_should_notify(Queue *queue) noexcept nogil
cdef bint queue_rest(Queue *queue, const MemoryTable *memory) noexcept nogil
cdef void queue_wake(Queue *queue, const MemoryTable *memory) noexcept nogil
cdef uint16_t queue_offered(const Queue *queue) noexcept nogil
cdef bint queue_has_more(const Queue *queue) noexcept nogil
