"""The driver side of a split virtqueue: what a guest's virtio driver does, compiled.

Two faces. The compiled modules beside this one (mount, load) use the ``ring_*`` functions without the GIL. Tests use
the Python methods, which also build what no sane driver would: every word of the rings can be written by hand.
"""

import os
import time

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, ENOSPC, EPROTO, errno
from libc.stdlib cimport calloc, free, malloc
from posix.unistd cimport read, write

from ferryfs.frontend.ram cimport GuestRam
from ferryfs.ring.atomics cimport ferry_fence, ferry_load_acquire_u16, ferry_store_release_u16

from ferryfs.errors import PeerError

cdef extern from "<poll.h>":
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms) nogil
    cdef enum:
        POLLIN

cdef enum:
    PAGE = 4096

cdef inline uint16_t *avail_index(Ring *ring) noexcept nogil:
    return &ring.avail[1]

cdef inline uint16_t *used_event(Ring *ring) noexcept nogil:
    return &ring.avail[2 + ring.num]

cdef inline uint16_t *used_index(Ring *ring) noexcept nogil:
    return &ring.used[1]

cdef inline uint16_t *avail_event(Ring *ring) noexcept nogil:
    return &ring.used[2 + 4 * ring.num]

# SAFETY (for the four above and everything below): DriverQueue checked the three areas against guest memory for the
# full size of a ring of `num` entries before the Ring existed, and `index & (num - 1)` stays below `num`, a power of
# two.


cdef int ring_add(
    Ring *ring, const Segment *segments, int readable, int writable,
    VirtqDesc *table, uint64_t table_gpa, uint32_t cookie
) noexcept nogil:
    cdef int total = readable + writable
    cdef int needed = 1 if table != NULL else total
    cdef int i
    cdef uint16_t head, at, flags
    cdef VirtqDesc *d
    pthread_mutex_lock(&ring.lock)
    if total == 0 or ring.free_count < needed:
        pthread_mutex_unlock(&ring.lock)
        return -ENOSPC
    head = ring.free_head
    if table != NULL:
        for i in range(total):
            d = &table[i]
            d.addr = segments[i].gpa
            d.len = segments[i].length
            d.flags = (DESC_F_WRITE if i >= readable else 0) | (DESC_F_NEXT if i + 1 < total else 0)
            d.next = <uint16_t>(i + 1) if i + 1 < total else 0
        d = &ring.desc[head]
        d.addr = table_gpa
        d.len = <uint32_t>(total * sizeof(VirtqDesc))
        d.flags = DESC_F_INDIRECT
        d.next = 0
        at = ring.next_free[head]
    else:
        at = head
        for i in range(total):
            d = &ring.desc[at]
            flags = (DESC_F_WRITE if i >= readable else 0) | (DESC_F_NEXT if i + 1 < total else 0)
            d.addr = segments[i].gpa
            d.len = segments[i].length
            d.flags = flags
            d.next = ring.next_free[at] if i + 1 < total else 0
            at = ring.next_free[at]
    ring.free_head = at
    ring.free_count -= <uint16_t>needed
    ring.chain_count[head] = <uint16_t>needed
    ring.cookie[head] = cookie
    publish(ring, head)
    pthread_mutex_unlock(&ring.lock)
    return head


cdef void publish(Ring *ring, uint16_t head) noexcept nogil:
    """Puts a head on the available ring. The caller holds the lock."""
    ring.avail[2 + (ring.avail_idx & (ring.num - 1))] = head
    ring.avail_idx += 1
    ferry_store_release_u16(avail_index(ring), ring.avail_idx)


cdef int ring_kick(Ring *ring, bint force) noexcept nogil:
    cdef uint16_t old, new, event
    cdef bint needed
    cdef uint64_t one = 1
    pthread_mutex_lock(&ring.lock)
    old = ring.kicked_idx
    new = ring.avail_idx
    ring.kicked_idx = new
    pthread_mutex_unlock(&ring.lock)
    # The index must be visible before the back-end's wish is read, or both sides could go to sleep.
    ferry_fence()
    if ring.event_idx:
        event = ferry_load_acquire_u16(avail_event(ring))
        needed = <uint16_t>(new - event - 1) < <uint16_t>(new - old)
    else:
        needed = new != old and (ferry_load_acquire_u16(&ring.used[0]) & USED_F_NO_NOTIFY) == 0
    if needed or force:
        if write(ring.kick_fd, &one, 8) != 8:
            return -errno
    return 0


cdef int ring_take(Ring *ring, uint32_t *used_length, uint32_t *cookie) noexcept nogil:
    cdef uint32_t head, length
    cdef uint16_t at, tail
    cdef uint32_t *element
    pthread_mutex_lock(&ring.lock)
    if ferry_load_acquire_u16(used_index(ring)) == ring.last_used:
        pthread_mutex_unlock(&ring.lock)
        return -EAGAIN
    element = <uint32_t *>&ring.used[2 + 4 * (ring.last_used & (ring.num - 1))]
    head = element[0]
    length = element[1]
    ring.last_used += 1
    if head >= ring.num or (ring.chain_count[head] == 0 and not ring.raw[head]):
        pthread_mutex_unlock(&ring.lock)
        return -EPROTO
    if ring.chain_count[head]:
        # The links in our own list still lead through the chain: it was taken from there in order.
        tail = <uint16_t>head
        at = ring.chain_count[head]
        for _ in range(at - 1):
            tail = ring.next_free[tail]
        ring.next_free[tail] = ring.free_head
        ring.free_head = <uint16_t>head
        ring.free_count += at
        ring.chain_count[head] = 0
    used_length[0] = length
    cookie[0] = ring.cookie[head]
    pthread_mutex_unlock(&ring.lock)
    return <int>head


cdef bint ring_arm(Ring *ring) noexcept nogil:
    if ring.event_idx:
        ferry_store_release_u16(used_event(ring), ring.last_used)
    else:
        ferry_store_release_u16(&ring.avail[0], 0)
    ferry_fence()
    return ferry_load_acquire_u16(used_index(ring)) != ring.last_used


cdef void ring_disarm(Ring *ring) noexcept nogil:
    if ring.event_idx:
        ferry_store_release_u16(used_event(ring), <uint16_t>(ring.last_used - 1))
    else:
        ferry_store_release_u16(&ring.avail[0], AVAIL_F_NO_INTERRUPT)


cdef int ring_in_flight(Ring *ring) noexcept nogil:
    return <int><uint16_t>(ring.avail_idx - ring.last_used)


cdef class DriverQueue:
    """One split virtqueue seen from the driver: memory for it is taken from ``ram``, its three eventfds are its own.

    ``slot_bytes``: room for all buffers of one request of ``add``. ``at_end``: each area of the ring ends flush with
    the end of its region, before a guard page. Requests may be added and awaited from several threads.
    """

    def __cinit__(self):
        self.kick_fd = self.call_fd = self.err_fd = -1
        self.ring.next_free = NULL
        self.ring.chain_count = NULL
        self.ring.cookie = NULL
        self.ring.raw = NULL
        pthread_mutex_init(&self.ring.lock, NULL)

    def __init__(
        self,
        GuestRam ram not None,
        int size=128,
        *,
        bint event_idx=True,
        bint indirect=True,
        uint64_t slot_bytes=65536,
        int region=0,
        bint at_end=False,
    ):
        cdef int i
        if size <= 0 or size > 32768 or size & (size - 1):
            raise ValueError("a queue's size is a power of two up to 32768")
        self.ram = ram
        self.size = size
        self.event_idx = event_idx
        self.indirect = indirect
        self.slot_bytes = slot_bytes
        self.desc_gpa = ram.alloc(16 * size, align=16, region=region, at_end=at_end)
        self.avail_gpa = ram.alloc(6 + 2 * size, align=2, region=region, at_end=at_end)
        self.used_gpa = ram.alloc(6 + 8 * size, align=4, region=region, at_end=at_end)
        self._slots_gpa = ram.alloc(slot_bytes * size, align=PAGE, region=region) if slot_bytes else 0
        self._free_slots = list(range(size - 1, -1, -1))
        self._pending = {}
        self._done = {}
        self.ring.desc = <VirtqDesc *>ram.window(self.desc_gpa, 16 * size)
        self.ring.avail = <uint16_t *>ram.window(self.avail_gpa, 6 + 2 * size)
        self.ring.used = <uint16_t *>ram.window(self.used_gpa, 6 + 8 * size)
        self.ring.num = <uint16_t>size
        self.ring.event_idx = event_idx
        self.ring.next_free = <uint16_t *>malloc(2 * <size_t>size)
        self.ring.chain_count = <uint16_t *>calloc(<size_t>size, 2)
        self.ring.cookie = <uint32_t *>calloc(<size_t>size, 4)
        self.ring.raw = <uint8_t *>calloc(<size_t>size, 1)
        if self.ring.next_free == NULL or self.ring.chain_count == NULL:
            raise MemoryError
        if self.ring.cookie == NULL or self.ring.raw == NULL:
            raise MemoryError
        for i in range(size):
            self.ring.next_free[i] = <uint16_t>((i + 1) & (size - 1))
        self.ring.free_head = 0
        self.ring.free_count = <uint16_t>size
        self.ring.avail_idx = self.ring.kicked_idx = self.ring.last_used = 0
        self.kick_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self.call_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.err_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.ring.kick_fd = self.kick_fd
        self.ring.call_fd = self.call_fd

    def __dealloc__(self):
        free(self.ring.next_free)
        free(self.ring.chain_count)
        free(self.ring.cookie)
        free(self.ring.raw)
        pthread_mutex_destroy(&self.ring.lock)

    # Ordinary requests

    def add(self, readable, writable, *, indirect=None):
        """Queues one request: its bytes for the back-end, and the sizes of the buffers that the back-end may fill.

        Returns a token. The back-end is not told before ``kick``. Raises BlockingIOError when ring or slots are full.
        """
        cdef bint use_table = self.indirect if indirect is None else indirect
        cdef list sizes = list(writable)
        cdef int total = len(readable) + len(sizes)
        cdef uint64_t table_gpa, at, end
        cdef Segment *segments
        cdef VirtqDesc *table = NULL
        cdef int head, i = 0
        cdef list places = []
        if not self._free_slots:
            raise BlockingIOError(EAGAIN, "every slot of the queue is in flight")
        slot = self._free_slots.pop()
        table_gpa = self._slots_gpa + slot * self.slot_bytes
        end = table_gpa + self.slot_bytes
        at = table_gpa + 16 * total
        segments = <Segment *>malloc(max(total, 1) * sizeof(Segment))
        if segments == NULL:
            raise MemoryError
        try:
            for data in readable:
                if at + len(data) > end:
                    raise ValueError(f"a request larger than slot_bytes={self.slot_bytes}")
                self.ram.write(at, data)
                segments[i].gpa, segments[i].length = at, len(data)
                at += len(data)
                i += 1
            for size in sizes:
                if at + size > end:
                    raise ValueError(f"a request larger than slot_bytes={self.slot_bytes}")
                segments[i].gpa, segments[i].length = at, size
                places.append((at, size))
                at += size
                i += 1
            if use_table:
                table = <VirtqDesc *>self.ram.window(table_gpa, 16 * total)
            # The token is known before the back-end can answer it: only the caller's kick or a polling back-end comes
            # earlier, and `wait` runs under the GIL up to the look-up, as this does.
            head = ring_add(&self.ring, segments, len(readable), len(sizes), table, table_gpa, 0)
            if head < 0:
                raise BlockingIOError(EAGAIN, "the ring is full")
            self._pending[head] = (slot, places)
        except BaseException:
            self._free_slots.append(slot)
            raise
        finally:
            free(segments)
        return head

    def kick(self, bint force=False):
        """Notifies the back-end where it asked to be notified; ``force``: also where it did not."""
        cdef int result
        with nogil:
            result = ring_kick(&self.ring, force)
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    def poll(self):
        """``(token, used_length)`` of the next answered request, or None. Raises PeerError for an answer to nothing."""
        cdef uint32_t length = 0
        cdef uint32_t cookie = 0
        cdef int head = ring_take(&self.ring, &length, &cookie)
        if head == -EAGAIN:
            return None
        if head < 0:
            raise PeerError("The back-end answered a request that is not in flight.")
        if head in self._pending:
            self._done[head] = self._pending.pop(head)
        return head, length

    def wait(self, double timeout=10.0):
        """As ``poll``, but waits up to ``timeout`` seconds for the back-end's call. None: nothing came in that time."""
        cdef uint64_t count = 0
        cdef pollfd entry
        cdef int ready, left_ms
        deadline = time.monotonic() + timeout
        while True:
            found = self.poll()
            if found is not None:
                return found
            if ring_arm(&self.ring):
                continue
            left_ms = max(0, <int>((deadline - time.monotonic()) * 1000))
            entry.fd = self.call_fd
            entry.events = POLLIN
            with nogil:
                ready = poll(&entry, 1, left_ms)
                if ready > 0:
                    read(self.call_fd, &count, 8)
            if ready < 0 and errno != EINTR:
                raise OSError(errno, os.strerror(errno))
            if ready == 0 and left_ms == 0:
                return self.poll()

    def take(self, int token):
        """The contents of an answered request's writable buffers; gives its slot back."""
        slot, places = self._done.pop(token)
        found = [self.ram.read(at, size) for at, size in places]
        self._free_slots.append(slot)
        return found

    def transact(self, readable, writable, double timeout=10.0):
        """Sends one request and waits for its answer: ``(used_length, writable contents)``. For one thread at a time.

        Raises TimeoutError when nothing came, PeerError when something else was answered.
        """
        token = self.add(readable, writable)
        self.kick()
        answer = self.wait(timeout)
        if answer is None:
            raise TimeoutError(f"no answer within {timeout} s")
        if answer[0] != token:
            raise PeerError(f"The back-end answered request {answer[0]} instead of {token}.")
        return answer[1], self.take(token)

    @property
    def in_flight(self):
        return ring_in_flight(&self.ring)

    # Every word by hand

    def write_desc(self, int index, uint64_t addr, uint32_t length, uint16_t flags=0, uint16_t next=0):
        """Writes one entry of the descriptor table as it is given."""
        cdef VirtqDesc d
        if index < 0 or index >= self.size:
            raise ValueError("no such descriptor")
        d.addr, d.len, d.flags, d.next = addr, length, flags, next
        self.ring.desc[index] = d

    @staticmethod
    def pack_desc(uint64_t addr, uint32_t length, uint16_t flags=0, uint16_t next=0):
        """The 16 bytes of a descriptor, for indirect tables made by hand."""
        cdef VirtqDesc d
        d.addr, d.len, d.flags, d.next = addr, length, flags, next
        return PyBytes_FromStringAndSize(<char *>&d, sizeof(VirtqDesc))

    def publish(self, uint16_t head):
        """Puts any head on the available ring; descriptors are the caller's. Not kicked."""
        pthread_mutex_lock(&self.ring.lock)
        if head < self.ring.num:
            self.ring.raw[head] = 1
        publish(&self.ring, head)
        pthread_mutex_unlock(&self.ring.lock)

    @property
    def avail_idx(self):
        return ferry_load_acquire_u16(avail_index(&self.ring))

    @avail_idx.setter
    def avail_idx(self, uint16_t value):
        """Also the driver's own next index, so that ordinary requests go on from there."""
        self.ring.avail_idx = self.ring.kicked_idx = value
        ferry_store_release_u16(avail_index(&self.ring), value)

    @property
    def used_idx(self):
        return ferry_load_acquire_u16(used_index(&self.ring))

    @used_idx.setter
    def used_idx(self, uint16_t value):
        """Also the driver's own place in the used ring."""
        self.ring.last_used = value
        ferry_store_release_u16(used_index(&self.ring), value)

    @property
    def used_event(self):
        return ferry_load_acquire_u16(used_event(&self.ring))

    @used_event.setter
    def used_event(self, uint16_t value):
        ferry_store_release_u16(used_event(&self.ring), value)

    @property
    def avail_event(self):
        return ferry_load_acquire_u16(avail_event(&self.ring))

    @property
    def avail_flags(self):
        return ferry_load_acquire_u16(&self.ring.avail[0])

    @avail_flags.setter
    def avail_flags(self, uint16_t value):
        ferry_store_release_u16(&self.ring.avail[0], value)

    def used_element(self, int index):
        """``(id, length)`` of one entry of the used ring."""
        cdef uint32_t *element = <uint32_t *>&self.ring.used[2 + 4 * (index & (self.size - 1))]
        return element[0], element[1]

    def close(self):
        """Closes the eventfds. Idempotent."""
        for fd in (self.kick_fd, self.call_fd, self.err_fd):
            if fd >= 0:
                os.close(fd)
        self.kick_fd = self.call_fd = self.err_fd = -1
        self.ring.kick_fd = self.ring.call_fd = -1
