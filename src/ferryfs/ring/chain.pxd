# A descriptor chain as two byte streams, whatever way the guest cut it: what the device reads, what it writes.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ferryfs.ring.memory cimport MemoryTable


cdef extern from "sys/uio.h" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len


cdef enum:
    DESC_SIZE = 16              # virtio 1.2, 2.7.5
    DESC_F_NEXT = 1
    DESC_F_WRITE = 2
    DESC_F_INDIRECT = 4
    # A chain is never longer than the largest virtqueue (virtio 1.2, 2.7: 32768); so is an indirect table.
    MAX_CHAIN = 32768
    # Linux asks for 1 MiB and headers; the length fields of FUSE are 32 bit. 64 MiB is far above and far below.
    MAX_CHAIN_BYTES = 64 << 20
    # Segments a chain's arrays grow by: 1 MiB in pages and the headers fit without growing.
    CHAIN_STEP = 272


# What is wrong with a chain. 0 is good. The chain is dropped, counted and logged, and its ring goes on.
cdef enum:
    CHAIN_OK = 0
    CHAIN_BAD_INDEX = 1         # a `next` beyond its table
    CHAIN_TOO_LONG = 2          # more descriptors than its table has: a loop
    CHAIN_UNMAPPED = 3          # an address and length outside of guest memory
    CHAIN_BAD_ORDER = 4         # readable behind writable
    CHAIN_BAD_INDIRECT = 5      # a table of a wrong size, inside of another, or together with NEXT
    CHAIN_TOO_BIG = 6           # more bytes than MAX_CHAIN_BYTES
    CHAIN_NO_MEMORY = 7         # ours


# One owner: a worker. Made by chain_init, filled by chain_load for one request, and used again for the next.
cdef struct Chain:
    uint16_t head
    iovec *segments             # host windows: `readable` of them first, then `writable`
    uint64_t *addresses         # guest address of each, for the dirty log
    uint32_t capacity           # entries in both arrays
    uint32_t readable           # segments
    uint32_t writable           # segments
    uint64_t readable_bytes
    uint64_t writable_bytes


cdef int chain_init(Chain *chain) noexcept nogil
cdef int chain_load(
    Chain *chain, const MemoryTable *memory, const uint8_t *table, uint16_t num, uint16_t head
) noexcept nogil
cdef uint64_t chain_read(const Chain *chain, uint64_t offset, void *into, uint64_t length) noexcept nogil
cdef uint64_t chain_write(const Chain *chain, uint64_t offset, const void *data, uint64_t length) noexcept nogil
cdef int chain_slice(
    const Chain *chain, bint writable, uint64_t offset, uint64_t length, iovec *into, int room
) noexcept nogil
cdef void chain_mark(const Chain *chain, const MemoryTable *memory, uint64_t length) noexcept nogil
cdef void chain_free(Chain *chain) noexcept nogil
