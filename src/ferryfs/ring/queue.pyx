"""The device side of a split virtqueue (virtio 1.2, 2.7): take, answer, notify, rest.

Nothing here waits, logs or holds a lock: the caller holds the ring's. The slow and obvious twin is ring/model.py.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uintptr_t

from ferryfs.ring.atomics cimport (
    ferry_fence, ferry_load_acquire_u16, ferry_read_u16, ferry_store_relaxed_u16, ferry_store_relaxed_u32,
    ferry_store_release_u16,
)
from ferryfs.ring.chain cimport CHAIN_OK, DESC_SIZE, Chain, chain_load
from ferryfs.ring.memory cimport GuestMemory, MemoryTable, memory_mark

# Offsets in the rings (2.7.6 and 2.7.8): flags, idx, then the entries, then the other side's event word.
cdef enum:
    RING_FLAGS = 0
    RING_IDX = 2
    RING_ENTRIES = 4
    AVAIL_ENTRY = 2
    USED_ENTRY = 8


cdef int queue_attach(
    Queue *queue, GuestMemory memory, uint64_t desc, uint64_t avail, uint64_t used, bint fresh
) noexcept nogil:
    """Resolves the three addresses (the front-end's) into windows; 0, or 1 to 3 for the one that is not in guest memory
    or not aligned.

    `fresh`: the ring is being started, so its used index is taken from the ring itself, as the peer left it. A ring
    that runs already keeps its own: what stands in guest memory is the guest's word.
    """
    cdef uint64_t num = queue.num
    cdef int missing
    queue_detach(queue)
    queue.desc = memory.user_window(desc, num * DESC_SIZE)
    queue.avail = memory.user_window(avail, RING_ENTRIES + AVAIL_ENTRY * num + 2)
    queue.used = memory.user_window(used, RING_ENTRIES + USED_ENTRY * num + 2)
    # Alignment (2.7) is that of the host address too: a front-end can place a region across the file's pages, and an
    # atomic access that is not aligned is a fault on some machines.
    missing = 0
    if queue.desc == NULL or desc & 15:
        missing = 1
    elif queue.avail == NULL or (avail | <uintptr_t>queue.avail) & 1:
        missing = 2
    elif queue.used == NULL or (used | <uintptr_t>queue.used) & 3:
        missing = 3
    if missing:
        queue_detach(queue)
        return missing
    if fresh:
        # SAFETY: used is a window of at least 6 bytes, aligned to 4 (above).
        queue.next_used = ferry_load_acquire_u16(queue.used + RING_IDX)
        queue.signalled_valid = False
    return 0


cdef void queue_detach(Queue *queue) noexcept nogil:
    queue.desc = NULL
    queue.avail = NULL
    queue.used = NULL


cdef uint16_t queue_offered(const Queue *queue) noexcept nogil:
    """Up to which index the guest says that it offers requests."""
    # SAFETY: avail is a window of 6 + 2 * num bytes, aligned to 2 (queue_attach).
    return ferry_load_acquire_u16(queue.avail + RING_IDX)


cdef bint queue_has_more(const Queue *queue) noexcept nogil:
    """Whether the guest offers more; a hint, nothing is taken."""
    return queue_offered(queue) != queue.last_avail


cdef int queue_pop(Queue *queue, const MemoryTable *memory, Chain *chain) noexcept nogil:
    """Takes the next request into `chain`. QUEUE_EMPTY, QUEUE_GOT, QUEUE_BAD_CHAIN (chain.head is to be answered with
    length 0) or QUEUE_BROKEN.
    """
    # Acquire: the entries and descriptors that the guest wrote before it raised idx are read after it.
    cdef uint16_t offered = queue_offered(queue)
    cdef uint16_t head
    if offered == queue.last_avail:
        return QUEUE_EMPTY
    if <uint16_t>(offered - queue.last_avail) > queue.num:
        return QUEUE_BROKEN
    # SAFETY: num is a power of two, so the entry number is < num and lies in the window.
    head = ferry_read_u16(queue.avail + RING_ENTRIES + AVAIL_ENTRY * (queue.last_avail & (queue.num - 1)))
    if head >= queue.num:
        return QUEUE_BROKEN
    queue.last_avail += 1
    queue.fault = chain_load(chain, memory, queue.desc, <uint16_t>(queue.num), head)
    return QUEUE_GOT if queue.fault == CHAIN_OK else QUEUE_BAD_CHAIN


cdef void queue_push(Queue *queue, const MemoryTable *memory, uint16_t head, uint32_t written) noexcept nogil:
    """Publishes the answer of the chain that began at `head`: `written` bytes of its writable side were filled."""
    cdef uint64_t slot = RING_ENTRIES + USED_ENTRY * <uint64_t>(queue.next_used & (queue.num - 1))
    # SAFETY: num is a power of two, so slot + 8 <= 4 + 8 * num; used is a window of 6 + 8 * num bytes, aligned to 4.
    ferry_store_relaxed_u32(queue.used + slot, head)
    ferry_store_relaxed_u32(queue.used + slot + 4, written)
    queue.next_used += 1
    # Release: the answer's bytes and the entry are visible before the index that announces them.
    ferry_store_release_u16(queue.used + RING_IDX, queue.next_used)
    if queue.log_used:
        memory_mark(memory, queue.used_log + slot, USED_ENTRY)
        memory_mark(memory, queue.used_log, RING_ENTRIES)


cdef bint queue_should_notify(Queue *queue) noexcept nogil:
    """Whether the guest wants to be told of what was pushed since the last time this was asked (2.7.7, 2.7.10)."""
    cdef uint16_t event
    cdef uint16_t before
    # Full fence: our idx is visible before we read the guest's wish. The guest does the same the other way round; so
    # either we see its new wish, or it sees our new idx.
    ferry_fence()
    if not queue.event_idx:
        # SAFETY: avail is a window of 6 + 2 * num bytes (queue_attach).
        return not ferry_load_acquire_u16(queue.avail + RING_FLAGS) & AVAIL_F_NO_INTERRUPT
    before = queue.signalled
    queue.signalled = queue.next_used
    if not queue.signalled_valid:
        queue.signalled_valid = True
        return True
    # SAFETY: used_event is the word behind the avail entries, inside the window of 6 + 2 * num bytes.
    event = ferry_load_acquire_u16(queue.avail + RING_ENTRIES + AVAIL_ENTRY * queue.num)
    return <uint16_t>(queue.next_used - event - 1) < <uint16_t>(queue.next_used - before)


cdef bint queue_rest(Queue *queue, const MemoryTable *memory) noexcept nogil:
    """Asks the guest for a kick at its next request. True: there is one already, so don't sleep.

    1. we find the ring empty, 2. the guest adds a request and sees "no kick wanted", 3. we ask for a kick and sleep.
    So after asking we look once more, with a full fence between; the guest looks at our wish behind a fence of its own.
    """
    if queue.event_idx:
        # SAFETY: avail_event is the word behind the used entries, inside the window of 6 + 8 * num bytes.
        ferry_store_relaxed_u16(queue.used + RING_ENTRIES + USED_ENTRY * queue.num, queue.last_avail)
        if queue.log_used:
            memory_mark(memory, queue.used_log + RING_ENTRIES + USED_ENTRY * queue.num, 2)
    else:
        # SAFETY: used is a window of 6 + 8 * num bytes.
        ferry_store_relaxed_u16(queue.used + RING_FLAGS, 0)
        if queue.log_used:
            memory_mark(memory, queue.used_log, 2)
    ferry_fence()
    return queue_has_more(queue)


cdef void queue_wake(Queue *queue, const MemoryTable *memory) noexcept nogil:
    """Says that no kick is needed while we are busy; with the event index the old event, which lies behind, says it."""
    if not queue.event_idx:
        # SAFETY: used is a window of 6 + 8 * num bytes.
        ferry_store_relaxed_u16(queue.used + RING_FLAGS, USED_F_NO_NOTIFY)
        if queue.log_used:
            memory_mark(memory, queue.used_log, 2)
