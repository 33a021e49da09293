"""Guest memory, a virtqueue and a chain as Python objects, for the tests only: the daemon never imports this module.

It adds nothing and checks nothing: what can't be (a ring used before it is attached) is an assertion here.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from ferryfs.ring.chain cimport (
    MAX_CHAIN, MAX_CHAIN_BYTES, Chain, chain_free, chain_mark, chain_read, chain_slice, chain_write, iovec,
)
from ferryfs.ring.memory cimport GuestMemory, memory_mark, memory_prefix
from ferryfs.ring.queue cimport (
    MAX_QUEUE_SIZE, Queue, queue_attach, queue_detach, queue_has_more, queue_pop, queue_push, queue_rest,
    queue_should_notify, queue_wake,
)

LIMITS = (MAX_CHAIN, MAX_CHAIN_BYTES, MAX_QUEUE_SIZE)


def peek(GuestMemory memory, uint64_t address, uint64_t length):
    """The bytes at a guest address, as far as one region has them."""
    cdef uint64_t got = 0
    cdef uint8_t *base = memory_prefix(&memory.table, address, length, &got)
    # SAFETY: memory_prefix has checked that got bytes lie behind base.
    return base[:got] if base != NULL else b""


def mark(GuestMemory memory, uint64_t address, uint64_t length):
    """Marks guest bytes as written."""
    memory_mark(&memory.table, address, length)


cdef class Ring:
    cdef Queue queue
    cdef Chain chain
    cdef GuestMemory memory
    cdef bint attached

    def __cinit__(self, GuestMemory memory not None, uint32_t num):
        memset(&self.queue, 0, sizeof(self.queue))
        memset(&self.chain, 0, sizeof(self.chain))
        assert 0 < num <= MAX_QUEUE_SIZE and num & (num - 1) == 0
        self.queue.num = num
        self.memory = memory
        self.attached = False

    def __dealloc__(self):
        chain_free(&self.chain)

    def attach(self, uint64_t desc, uint64_t avail, uint64_t used, bint fresh):
        cdef int missing = queue_attach(&self.queue, self.memory, desc, avail, used, fresh)
        self.attached = missing == 0
        return missing

    def detach(self):
        queue_detach(&self.queue)
        self.attached = False

    def set_base(self, uint16_t base):
        self.queue.last_avail = base

    def set_event_idx(self, bint on):
        self.queue.event_idx = on

    def set_log(self, bint on, uint64_t address):
        self.queue.log_used = on
        self.queue.used_log = address

    def state(self):
        return (self.queue.last_avail, self.queue.next_used)

    def pop(self):
        cdef int result
        assert self.attached
        result = queue_pop(&self.queue, &self.memory.table, &self.chain)
        if result == 1:
            return (result, self.chain.head, self.read(0, self.chain.readable_bytes), self.chain.writable_bytes, 0)
        if result == 2:
            return (result, self.chain.head, b"", 0, self.queue.fault)
        return (result, 0, b"", 0, 0)

    def read(self, uint64_t offset, uint64_t length):
        cdef bytearray data = bytearray(min(length, self.chain.readable_bytes))
        cdef uint8_t *into = data
        del data[chain_read(&self.chain, offset, into, len(data)):]
        return bytes(data)

    def write(self, uint64_t offset, bytes data not None):
        cdef const uint8_t *source = data
        return chain_write(&self.chain, offset, source, len(data))

    def slices(self, bint writable, uint64_t offset, uint64_t length, int room):
        """The windows that preadv and pwritev would get, as bytes."""
        cdef iovec windows[64]
        cdef int i
        assert 0 <= room <= 64
        filled = chain_slice(&self.chain, writable, offset, length, windows, room)
        # SAFETY: each window was checked when the chain was loaded.
        return [(<uint8_t *>windows[i].iov_base)[:windows[i].iov_len] for i in range(filled)]

    def mark(self, uint64_t length):
        chain_mark(&self.chain, &self.memory.table, length)

    def push(self, uint16_t head, uint32_t written):
        assert self.attached
        queue_push(&self.queue, &self.memory.table, head, written)

    def should_notify(self):
        assert self.attached
        return queue_should_notify(&self.queue)

    def rest(self):
        assert self.attached
        return queue_rest(&self.queue, &self.memory.table)

    def wake(self):
        assert self.attached
        queue_wake(&self.queue, &self.memory.table)

    def has_more(self):
        assert self.attached
        return queue_has_more(&self.queue)

    def host_addresses(self):
        """Of the three parts, for the alignment tests."""
        return (<uintptr_t>self.queue.desc, <uintptr_t>self.queue.avail, <uintptr_t>self.queue.used)
