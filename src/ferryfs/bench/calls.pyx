"""Bare system calls, as many of them as fit into a time: what a daemon's operation costs where there is no daemon.

An *operation* is a list of calls; the operations of a ``CallLoop`` are made one after the other, over and over, without
the GIL. A call names its number and up to six arguments; a string or buffer is passed by its address, and ``LAST_FD``
stands for the result of the operation's latest call that opened something.
"""

import os
from array import array

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free

cdef extern from "<sys/syscall.h>":
    enum:
        SYS_statx
        SYS_readlinkat
        SYS_openat
        SYS_close
        SYS_read
        SYS_write
        SYS_pread64
        SYS_pwrite64
        SYS_unlinkat
        SYS_mkdirat
        SYS_symlinkat
        SYS_renameat2
        SYS_fchmodat
        SYS_fsync
        SYS_fgetxattr
        SYS_getdents64

cdef extern from "<unistd.h>":
    long syscall(long number, ...) nogil

cdef extern from "<time.h>":
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now) nogil
    enum:
        CLOCK_MONOTONIC
        CLOCK_THREAD_CPUTIME_ID

NUMBERS = {
    "statx": SYS_statx,
    "readlinkat": SYS_readlinkat,
    "openat": SYS_openat,
    "close": SYS_close,
    "read": SYS_read,
    "write": SYS_write,
    "pread": SYS_pread64,
    "pwrite": SYS_pwrite64,
    "unlinkat": SYS_unlinkat,
    "mkdirat": SYS_mkdirat,
    "symlinkat": SYS_symlinkat,
    "renameat2": SYS_renameat2,
    "fchmodat": SYS_fchmodat,
    "fsync": SYS_fsync,
    "fgetxattr": SYS_fgetxattr,
    "getdents64": SYS_getdents64,
}

LAST_FD = -1000

cdef enum:
    ARGUMENTS = 6
    LAST = -1000  # LAST_FD

cdef struct Prepared:
    long number
    int64_t arguments[6]
    int expected_errno
    bint opens
    bint ends  # the last call of its operation


cdef inline uint64_t now_ns(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


class Call:
    """One system call: its name, its arguments, and the errno with which it is meant to fail (0: none)."""

    __slots__ = ("arguments", "expected_errno", "name")

    def __init__(self, name, *arguments, expected_errno=0):
        if name not in NUMBERS or len(arguments) > ARGUMENTS:
            raise ValueError(f"{name} is not among the calls, or has too many arguments")
        self.name = name
        self.arguments = arguments
        self.expected_errno = expected_errno


cdef class CallLoop:
    """Operations prepared to be made as often as wanted."""

    cdef Prepared *calls
    cdef int count
    cdef list kept
    cdef list names
    cdef int failed_at
    cdef int failed_errno
    cdef uint64_t cpu_ns
    cdef uint64_t wall_ns
    cdef uint64_t *latencies
    cdef uint64_t capacity
    cdef uint64_t recorded
    cdef bint stopping

    def __cinit__(self):
        self.calls = NULL
        self.latencies = NULL

    def __init__(self, operations):
        cdef int at = 0, i
        cdef uint8_t[::1] view
        cdef const uint8_t[::1] constant
        self.count = sum(len(operation) for operation in operations)
        if not operations or not all(operations):
            raise ValueError("at least one operation, of at least one call")
        self.kept = []
        self.names = []
        self.calls = <Prepared *>calloc(<size_t>self.count, sizeof(Prepared))
        if self.calls == NULL:
            raise MemoryError
        for operation in operations:
            for call in operation:
                self.calls[at].number = NUMBERS[call.name]
                self.calls[at].expected_errno = call.expected_errno
                self.calls[at].opens = call.name == "openat"
                self.names.append(call.name)
                for i, argument in enumerate(call.arguments):
                    if isinstance(argument, int):
                        self.calls[at].arguments[i] = argument
                        continue
                    # SAFETY: the object is kept as long as the loop, and neither bytes nor a buffer that is exported
                    # moves; its length is the caller's business, as with any system call.
                    self.kept.append(argument)
                    if isinstance(argument, bytes):
                        constant = argument
                        self.calls[at].arguments[i] = <int64_t>&constant[0]
                        self.kept.append(memoryview(constant))
                    else:
                        view = argument
                        self.calls[at].arguments[i] = <int64_t>&view[0]
                        self.kept.append(memoryview(view))
                at += 1
            self.calls[at - 1].ends = True

    def __dealloc__(self):
        free(self.calls)
        free(self.latencies)

    def stop(self):
        """Ends a run in another thread after the operation that it is at, or the next one before it begins."""
        self.stopping = True

    def run(self, double seconds, int samples=0):
        """Makes operations for so long: ``(operations, seconds, processor seconds of this thread)``, and keeps how
        long the first ``samples`` of them took. Raises OSError when a call answers otherwise than expected.
        """
        cdef int64_t done
        free(self.latencies)
        self.capacity = <uint64_t>samples
        self.recorded = 0
        self.latencies = <uint64_t *>calloc(self.capacity + 1, 8)
        if self.latencies == NULL:
            raise MemoryError
        with nogil:
            done = self._run(<uint64_t>(seconds * 1e9))
        if done < 0:
            raise OSError(self.failed_errno, f"{self.names[self.failed_at]}: {os.strerror(self.failed_errno)}")
        return done, self.wall_ns / 1e9, self.cpu_ns / 1e9

    @property
    def latencies_ns(self):
        """Of the operations of the last run, as many as were wanted."""
        found = array("Q")
        found.frombytes((<uint8_t *>self.latencies)[: self.recorded * 8])
        return found

    cdef int64_t _run(self, uint64_t duration) noexcept nogil:
        cdef uint64_t cpu = now_ns(CLOCK_THREAD_CPUTIME_ID)
        cdef uint64_t start = now_ns(CLOCK_MONOTONIC)
        cdef uint64_t end = start
        cdef uint64_t began = start
        cdef int64_t done = 0
        cdef int64_t a[6]
        cdef int64_t last = -1
        cdef long result
        cdef int at = 0, i
        cdef Prepared *call
        while True:
            call = &self.calls[at]
            for i in range(ARGUMENTS):
                a[i] = last if call.arguments[i] == LAST else call.arguments[i]
            result = syscall(call.number, a[0], a[1], a[2], a[3], a[4], a[5])
            if (result < 0) != (call.expected_errno != 0) or (result < 0 and errno != call.expected_errno):
                self.failed_at = at
                self.failed_errno = errno if result < 0 else 0
                return -1
            if call.opens:
                last = result
            at += 1
            if call.ends:
                done += 1
                if at == self.count:
                    at = 0
                # The clock costs a tenth of the cheapest operation: it is looked at now and then.
                if self.capacity or done & 7 == 0 or call.number == SYS_fsync:
                    end = now_ns(CLOCK_MONOTONIC)
                    if self.recorded < self.capacity:
                        self.latencies[self.recorded] = end - began
                        self.recorded += 1
                    began = end
                    if end - start >= duration:
                        break
                if self.stopping:
                    break
        self.wall_ns = end - start
        self.cpu_ns = now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu
        return done
