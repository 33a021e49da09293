# The functions of atomics.h; see there for what each promises.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "atomics.h" nogil:
    uint16_t ferry_read_u16(const void *p) noexcept
    uint32_t ferry_read_u32(const void *p) noexcept
    uint64_t ferry_read_u64(const void *p) noexcept
    uint16_t ferry_load_acquire_u16(const void *p) noexcept
    void ferry_store_relaxed_u16(void *p, uint16_t v) noexcept
    void ferry_store_release_u16(void *p, uint16_t v) noexcept
    void ferry_store_relaxed_u32(void *p, uint32_t v) noexcept
    void ferry_or_u8(void *p, uint8_t v) noexcept
    void ferry_fence() noexcept
    void ferry_relax() noexcept
    int ferry_load_int(const int *p) noexcept
    void ferry_store_int(int *p, int v) noexcept
    void *ferry_load_pointer(void *const *p) noexcept
    void ferry_store_pointer(void **p, void *v) noexcept
    uint64_t ferry_load_own_u64(const uint64_t *p) noexcept
    void ferry_store_own_u64(uint64_t *p, uint64_t v) noexcept
    uint64_t ferry_add_own_u64(uint64_t *p, uint64_t v) noexcept
