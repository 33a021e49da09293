# An open-addressing table from a 32-bit hash to slot numbers. What a slot holds, and whether it is the one that is meant, is the
# owner's business: it walks the cells of a hash with index_next and compares.
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free


cdef struct Cell:
    uint32_t hash
    uint32_t slot           # slot number + 1; 0: empty

cdef struct Index:
    Cell *cells
    uint32_t mask           # cells - 1; 0: none yet
    uint32_t count


cdef enum:
    INDEX_SMALLEST = 64
    INDEX_NONE = 0xffffffff


cdef inline uint32_t hash_u64(uint64_t value) noexcept nogil:
    value ^= value >> 32
    value *= <uint64_t>0x9e3779b97f4a7c15
    return <uint32_t>(value >> 32)


cdef inline uint32_t index_next(const Index *index, uint32_t hash, uint32_t *cursor) noexcept nogil:
    """The next slot filed under `hash`, or INDEX_NONE. Begin with cursor = hash; it is moved on."""
    cdef uint32_t i
    if index.cells == NULL:
        return INDEX_NONE
    while True:
        i = cursor[0] & index.mask
        if index.cells[i].slot == 0:
            return INDEX_NONE
        cursor[0] = i + 1
        if index.cells[i].hash == hash:
            return index.cells[i].slot - 1


cdef inline void index_place(Index *index, uint32_t hash, uint32_t slot) noexcept nogil:
    cdef uint32_t i = hash & index.mask
    while index.cells[i].slot != 0:
        i = (i + 1) & index.mask
    index.cells[i].hash = hash
    index.cells[i].slot = slot + 1


cdef inline int index_add(Index *index, uint32_t hash, uint32_t slot) noexcept nogil:
    """Files `slot` under `hash`; 0, or -1 when there is no memory to grow. At most three quarters are full."""
    cdef Index larger
    cdef uint32_t i
    cdef uint64_t cells = <uint64_t>index.mask + 1 if index.cells != NULL else 0
    if <uint64_t>index.count + 1 > cells - (cells >> 2):
        cells = cells * 2 if cells else INDEX_SMALLEST
        larger.cells = <Cell *>calloc(cells, sizeof(Cell))
        if larger.cells == NULL:
            return -1
        larger.mask = <uint32_t>(cells - 1)
        larger.count = index.count
        if index.cells != NULL:
            for i in range(index.mask + 1):
                if index.cells[i].slot != 0:
                    index_place(&larger, index.cells[i].hash, index.cells[i].slot - 1)
            free(index.cells)
        index[0] = larger
    index_place(index, hash, slot)
    index.count += 1
    return 0


cdef inline void index_remove(Index *index, uint32_t hash, uint32_t slot) noexcept nogil:
    """Takes `slot` out; what stands behind it moves up, so that no mark of it stays."""
    cdef uint32_t hole
    cdef uint32_t i
    cdef uint32_t home
    if index.cells == NULL:
        return
    i = hash & index.mask
    while index.cells[i].slot != slot + 1:
        if index.cells[i].slot == 0:
            return
        i = (i + 1) & index.mask
    hole = i
    while True:
        i = (i + 1) & index.mask
        if index.cells[i].slot == 0:
            break
        home = index.cells[i].hash & index.mask
        # A cell may move into the hole unless its home lies behind the hole, counted round the table.
        if ((i - home) & index.mask) >= ((i - hole) & index.mask):
            index.cells[hole] = index.cells[i]
            hole = i
    index.cells[hole].slot = 0
    index.count -= 1


cdef inline void index_free(Index *index) noexcept nogil:
    free(index.cells)
    index.cells = NULL
    index.mask = 0
    index.count = 0
