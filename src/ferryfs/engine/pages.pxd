# Memory of whole pages, zeroed, for large tables.
from libc.stddef cimport size_t

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
    void *MAP_FAILED
    void *mmap(void *at, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void *at, size_t size)


cdef inline void *take_pages(size_t size) noexcept nogil:
    """So many bytes, zeroed; NULL when there are none. It becomes memory when it is touched, page by page. Not huge ones: where the
    host is a guest itself, its own host may have to find these first (docs/decisions/migration-speed.md).
    """
    cdef void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if memory == MAP_FAILED:
        return NULL
    return memory


cdef inline void give_pages(void *memory, size_t size) noexcept nogil:
    """Gives them back, or some of them: whole pages. NULL is nothing."""
    if memory != NULL:
        munmap(memory, size)
