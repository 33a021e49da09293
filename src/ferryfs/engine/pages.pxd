# Memory of whole pages, zeroed, for large tables.
from libc.stddef cimport size_t

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
        MADV_HUGEPAGE
    void *MAP_FAILED
    void *mmap(void *at, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void *at, size_t size)
    int madvise(void *at, size_t size, int advice)


cdef enum:
    HUGE_PAGE = 2 << 20


cdef inline void *take_pages(size_t size) noexcept nogil:
    """So many bytes, zeroed; NULL when there are none. It becomes memory when it is touched.

    The kernel takes 2 us for each page of 4 KiB, more than what fills it, and a fifth of that in huge pages, where it has some.
    """
    cdef void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if memory == MAP_FAILED:
        return NULL
    if size >= HUGE_PAGE:
        madvise(memory, size, MADV_HUGEPAGE)
    return memory


cdef inline void give_pages(void *memory, size_t size) noexcept nogil:
    """Gives them back, or some of them: whole pages. NULL is nothing."""
    if memory != NULL:
        munmap(memory, size)
