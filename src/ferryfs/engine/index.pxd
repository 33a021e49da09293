# An open-addressing table from a 32-bit hash to slot numbers. What a slot holds, and whether it is the one that is meant, is the
# owner's business: it walks the cells of a hash with index_next and compares.
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free


cdef struct Cell:
    uint32_t hash
    uint32_t slot           # slot number + 1; 0: empty

cdef extern from * nogil:
    void prefetch "__builtin_prefetch" (const void *at)


# Some facts about its size. A table that doubles is 37 to 75 % full, one that grows by a quarter 70 to 87 %: at 8 bytes a cell and
# two tables an inode, that is some 20 bytes an inode. A hash finds its cell by multiplication, so any number of cells will do.
cdef struct Index:
    Cell *cells
    uint32_t size           # cells; 0: none yet
    uint32_t count


cdef enum:
    INDEX_SMALLEST = 64
    INDEX_NONE = 0xffffffff


cdef inline uint32_t hash_u64(uint64_t value) noexcept nogil:
    value ^= value >> 32
    value *= <uint64_t>0x9e3779b97f4a7c15
    return <uint32_t>(value >> 32)


cdef inline uint32_t index_home(const Index *index, uint32_t hash) noexcept nogil:
    return <uint32_t>((<uint64_t>hash * index.size) >> 32)


cdef inline uint32_t index_after(const Index *index, uint32_t i) noexcept nogil:
    return i + 1 if i + 1 < index.size else 0


cdef inline uint32_t index_distance(const Index *index, uint32_t first, uint32_t last) noexcept nogil:
    return last - first if last >= first else last + index.size - first


cdef inline uint32_t index_next(const Index *index, uint32_t hash, uint32_t *cursor) noexcept nogil:
    """The next slot filed under `hash`, or INDEX_NONE. Begin with cursor = INDEX_NONE; it is moved on."""
    cdef uint32_t i
    if index.cells == NULL:
        return INDEX_NONE
    i = index_home(index, hash) if cursor[0] == INDEX_NONE else cursor[0]
    while index.cells[i].slot != 0:
        cursor[0] = index_after(index, i)
        if index.cells[i].hash == hash:
            return index.cells[i].slot - 1
        i = cursor[0]
    return INDEX_NONE


cdef inline void index_place(Index *index, uint32_t hash, uint32_t slot) noexcept nogil:
    cdef uint32_t i = index_home(index, hash)
    while index.cells[i].slot != 0:
        i = index_after(index, i)
    index.cells[i].hash = hash
    index.cells[i].slot = slot + 1


cdef inline int index_resize(Index *index, uint64_t cells) noexcept nogil:
    """Moves all to so many cells, more than there are slots in it; 0, or -1 when there is no memory."""
    cdef Index larger
    cdef uint32_t i
    if cells >= INDEX_NONE:
        return -1
    larger.cells = <Cell *>calloc(cells, sizeof(Cell))
    if larger.cells == NULL:
        return -1
    larger.size = <uint32_t>cells
    larger.count = index.count
    for i in range(index.size):
        if index.cells[i].slot != 0:
            index_place(&larger, index.cells[i].hash, index.cells[i].slot - 1)
    free(index.cells)
    index[0] = larger
    return 0


cdef inline void index_reserve(Index *index, uint64_t more) noexcept nogil:
    """Makes room for `more` slots at once, where there is memory: who adds so many spares the growing on the way."""
    cdef uint64_t cells = index.count + more
    cells += (cells >> 2) + INDEX_SMALLEST
    if cells > index.size:
        index_resize(index, cells)


cdef inline void index_expect(const Index *index, uint32_t hash) noexcept nogil:
    """Has the processor fetch the cell of a hash, of which something is to be added soon."""
    if index.size:
        prefetch(&index.cells[index_home(index, hash)])


cdef inline int index_add(Index *index, uint32_t hash, uint32_t slot) noexcept nogil:
    """Files `slot` under `hash`; 0, or -1 when there is no memory to grow. At most seven eighths are full."""
    cdef uint64_t cells = index.size
    if <uint64_t>index.count + 1 > cells - (cells >> 3):
        if index_resize(index, cells + (cells >> 2) if cells else INDEX_SMALLEST) < 0:
            return -1
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
    i = index_home(index, hash)
    while index.cells[i].slot != slot + 1:
        if index.cells[i].slot == 0:
            return
        i = index_after(index, i)
    hole = i
    while True:
        i = index_after(index, i)
        if index.cells[i].slot == 0:
            break
        home = index_home(index, index.cells[i].hash)
        # A cell may move into the hole unless its home lies behind the hole, counted round the table.
        if index_distance(index, home, i) >= index_distance(index, hole, i):
            index.cells[hole] = index.cells[i]
            hole = i
    index.cells[hole].slot = 0
    index.count -= 1


cdef inline void index_free(Index *index) noexcept nogil:
    free(index.cells)
    index.cells = NULL
    index.size = 0
    index.count = 0
