/* Loads, stores and read-modify-writes on memory that another party changes at any time.
 *
 * Guest memory is read and written through these functions only: each is exactly one access, so that the compiler can
 * neither repeat a load (the double fetch) nor tear a store. The unaligned forms serve descriptors of indirect tables,
 * which a guest may put anywhere; they carry no ordering.
 */
#ifndef FERRYFS_ATOMICS_H
#define FERRYFS_ATOMICS_H

#include <stdint.h>

struct ferry_u16 { uint16_t v; } __attribute__((packed, may_alias));
struct ferry_u32 { uint32_t v; } __attribute__((packed, may_alias));
struct ferry_u64 { uint64_t v; } __attribute__((packed, may_alias));

static inline uint16_t ferry_read_u16(const void *p) { return ((const volatile struct ferry_u16 *)p)->v; }
static inline uint32_t ferry_read_u32(const void *p) { return ((const volatile struct ferry_u32 *)p)->v; }
static inline uint64_t ferry_read_u64(const void *p) { return ((const volatile struct ferry_u64 *)p)->v; }

static inline uint16_t ferry_load_acquire_u16(const void *p) { return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE); }
static inline void ferry_store_relaxed_u16(void *p, uint16_t v) { __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELAXED); }
static inline void ferry_store_release_u16(void *p, uint16_t v) { __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELEASE); }
static inline void ferry_store_relaxed_u32(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED); }
static inline void ferry_or_u8(void *p, uint8_t v) { (void)__atomic_fetch_or((uint8_t *)p, v, __ATOMIC_SEQ_CST); }
static inline void ferry_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* For a loop that waits for another processor's write: leaves the core to its other thread, and the line alone. */
#if defined(__x86_64__) || defined(__i386__)
static inline void ferry_relax(void) { __builtin_ia32_pause(); }
#elif defined(__aarch64__)
static inline void ferry_relax(void) { __asm__ volatile("yield" ::: "memory"); }
#else
static inline void ferry_relax(void) { __asm__ volatile("" ::: "memory"); }
#endif

/* Our own memory, shared between our threads. */
static inline int ferry_load_int(const int *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void ferry_store_int(int *p, int v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void *ferry_load_pointer(void *const *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void ferry_store_pointer(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t ferry_load_own_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void ferry_store_own_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t ferry_add_own_u64(uint64_t *p, uint64_t v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }

#endif
