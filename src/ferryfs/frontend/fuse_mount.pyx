"""Carries the kernel's FUSE requests from ``/dev/fuse`` to virtqueues and the answers back, without the GIL and
without a copy.

A request is read straight into guest memory, becomes a descriptor chain as the Linux virtiofs driver would make it
(``fs/fuse/virtio_fs.c``: FORGET to the high-priority queue, all else to a request queue, the room for the answer cut
to the exact size), and the answer is written to the kernel from where the back-end put it.

Slot layout, in pages, so that file data is page-aligned on both ways (a back-end may read and write it with O_DIRECT):
table | tail: request header and arguments | data of a WRITE … | tail: reply header | data of a READ …
"""

import os

from libc.errno cimport EAGAIN, EINTR, EINVAL, EIO, ENOENT, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport read, write

from ferryfs.frontend.driver cimport (
    DriverQueue,
    Ring,
    Segment,
    VirtqDesc,
    pthread_mutex_destroy,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_t,
    pthread_mutex_unlock,
    ring_add,
    ring_arm,
    ring_kick,
    ring_take,
)
from ferryfs.frontend.ram cimport GuestRam

cdef extern from "<pthread.h>":
    ctypedef struct pthread_cond_t:
        pass
    ctypedef struct pthread_condattr_t:
        pass
    int pthread_condattr_init(pthread_condattr_t *attr) nogil
    int pthread_condattr_setclock(pthread_condattr_t *attr, int clock) nogil
    int pthread_cond_init(pthread_cond_t *cond, pthread_condattr_t *attr) nogil
    int pthread_cond_destroy(pthread_cond_t *cond) nogil
    int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex) nogil
    int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const timespec *until) nogil
    int pthread_cond_broadcast(pthread_cond_t *cond) nogil

cdef extern from "<time.h>":
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now) nogil
    enum:
        CLOCK_MONOTONIC

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
    DATA_ROOM = 1 << 20  # 256 pages: the most that a FUSE request carries (max_pages)
    MAX_PAGES = 256
    IN_HEADER = 40
    OUT_HEADER = 16
    WRITE_IN = 40
    OPCODES = 64
    UNKNOWN_OUT = 4096
    # Where things stand in a slot.
    REQUEST_AT = 2 * PAGE - IN_HEADER - WRITE_IN
    REQUEST_ROOM = IN_HEADER + WRITE_IN + DATA_ROOM
    REPLY_AT = 2 * PAGE + DATA_ROOM + PAGE - OUT_HEADER
    REPLY_ROOM = OUT_HEADER + DATA_ROOM
    SLOT_BYTES = 3 * PAGE + 2 * DATA_ROOM

cdef enum:
    FORGET = 2
    READ = 15
    WRITE = 16
    GETXATTR = 22
    LISTXATTR = 23
    INIT = 26
    READDIR = 28
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    READDIRPLUS = 44

cdef struct Slot:
    uint8_t *base
    uint64_t gpa
    uint64_t unique
    uint32_t opcode
    uint32_t reply_room
    int fuse_fd

ctypedef packed struct InHeader:
    uint32_t len
    uint32_t opcode
    uint64_t unique
    uint64_t nodeid
    uint32_t uid
    uint32_t gid
    uint32_t pid
    uint16_t total_extlen
    uint16_t padding

ctypedef packed struct OutHeader:
    uint32_t len
    int32_t error
    uint64_t unique

SLOT_SIZE = SLOT_BYTES


cdef inline uint32_t get32(const uint8_t *at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef class FusePump:
    """Moves requests between ``/dev/fuse`` and the queues of one mount; the threads are the caller's.

    ``queues[0]`` is the high-priority queue, each other one a request queue with its own file descriptor of
    ``fuse_fds`` (non-blocking, stays the caller's). ``reply_sizes`` maps an opcode to the bytes of its fixed answer
    without the header. ``slots``: how many requests may be in flight in all.
    """

    cdef GuestRam ram
    cdef list queues
    cdef int queue_count
    cdef Ring *rings[65]
    cdef int fuse_fds[65]
    cdef bint indirect[65]
    cdef uint32_t reply_sizes[64]
    cdef Slot *slots
    cdef int slot_count
    cdef int stop_fd
    # pool_lock protects everything below.
    cdef pthread_mutex_t pool_lock
    cdef pthread_cond_t pool_changed
    cdef uint16_t *free_slots
    cdef int free_count
    cdef int active
    cdef uint64_t given_back
    cdef int waiting_for_room
    cdef bint reading
    cdef bint stopping
    cdef bint dead
    cdef int init_error
    cdef bint init_seen
    cdef uint8_t init_reply[128]
    cdef uint32_t init_length
    cdef uint64_t requests
    cdef uint64_t interrupts
    cdef uint64_t bad_replies
    cdef uint64_t by_opcode[64]
    cdef uint32_t bad_opcode
    cdef uint32_t bad_used
    cdef uint32_t bad_length
    cdef bint broken_ring

    def __cinit__(self):
        cdef pthread_condattr_t attr
        pthread_mutex_init(&self.pool_lock, NULL)
        pthread_condattr_init(&attr)
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC)
        pthread_cond_init(&self.pool_changed, &attr)
        self.slots = NULL
        self.free_slots = NULL
        self.stop_fd = -1

    def __init__(self, GuestRam ram not None, queues, fuse_fds, reply_sizes, int slots=64):
        cdef DriverQueue queue
        cdef int i
        cdef uint64_t gpa
        if not 2 <= len(queues) <= 65 or len(fuse_fds) != len(queues) - 1 or not 1 <= slots <= 32768:
            raise ValueError("one high-priority queue, 1 to 64 request queues with a descriptor each, 1 to 32768 slots")
        self.ram = ram
        self.queues = list(queues)
        self.queue_count = len(self.queues)
        for i, queue in enumerate(self.queues):
            self.rings[i] = &queue.ring
            self.indirect[i] = queue.indirect
            os.set_blocking(queue.call_fd, True)
        for i, fd in enumerate(fuse_fds):
            self.fuse_fds[i + 1] = fd
        self.fuse_fds[0] = self.fuse_fds[1]
        for i in range(OPCODES):
            self.reply_sizes[i] = reply_sizes.get(i, UNKNOWN_OUT)
        self.slot_count = slots
        self.slots = <Slot *>calloc(<size_t>slots, sizeof(Slot))
        self.free_slots = <uint16_t *>calloc(<size_t>slots, 2)
        if self.slots == NULL or self.free_slots == NULL:
            raise MemoryError
        for i in range(slots):
            gpa = ram.alloc(SLOT_BYTES, align=PAGE)
            # SAFETY: the window covers the whole slot; the offsets above stay inside SLOT_BYTES.
            self.slots[i].base = ram.window(gpa, SLOT_BYTES)
            self.slots[i].gpa = gpa
            self.free_slots[slots - 1 - i] = <uint16_t>i
        self.free_count = slots
        self.stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self.reading = True

    def __dealloc__(self):
        free(self.slots)
        free(self.free_slots)
        pthread_cond_destroy(&self.pool_changed)
        pthread_mutex_destroy(&self.pool_lock)

    def close(self):
        """Closes what is our own; all threads must have returned. Idempotent."""
        if self.stop_fd >= 0:
            os.close(self.stop_fd)
            self.stop_fd = -1

    # The two loops

    def read_requests(self, int index):
        """Takes requests from the kernel for request queue ``index`` (from 1) until ``pause`` (returns 0) or an errno
        of the device: ENODEV when it was unmounted. Blocks; run it in a thread of its own.
        """
        cdef int result
        if not 1 <= index < self.queue_count:
            raise ValueError("no such request queue")
        with nogil:
            result = self._read_requests(index)
        return result

    def complete_requests(self, int index):
        """Gives the answers of queue ``index`` (0: high-priority) to the kernel until ``stop`` (returns 0) or until
        the ring is broken (EPROTO). Blocks; run it in a thread of its own.
        """
        cdef int result
        if not 0 <= index < self.queue_count:
            raise ValueError("no such queue")
        with nogil:
            result = self._complete_requests(index)
        return result

    cdef int _take_slot(self) noexcept nogil:
        """A free slot; waits for one. -1 when reading is paused."""
        cdef int slot = -1
        pthread_mutex_lock(&self.pool_lock)
        while self.reading and self.free_count == 0:
            pthread_cond_wait(&self.pool_changed, &self.pool_lock)
        if self.reading:
            self.free_count -= 1
            slot = self.free_slots[self.free_count]
        pthread_mutex_unlock(&self.pool_lock)
        return slot

    cdef void _give_slot(self, int slot, bint was_active) noexcept nogil:
        pthread_mutex_lock(&self.pool_lock)
        self.free_slots[self.free_count] = <uint16_t>slot
        self.free_count += 1
        if was_active:
            self.active -= 1
        self.given_back += 1
        if self.free_count == 1 or self.active == 0 or self.waiting_for_room:
            pthread_cond_broadcast(&self.pool_changed)
        pthread_mutex_unlock(&self.pool_lock)

    cdef int _read_requests(self, int index) noexcept nogil:
        cdef int slot = -1
        cdef int fuse_fd = self.fuse_fds[index]
        cdef int result
        cdef ssize_t length
        cdef pollfd ready[2]
        ready[0].fd = fuse_fd
        ready[1].fd = self.stop_fd
        ready[0].events = ready[1].events = POLLIN
        while True:
            if slot < 0:
                slot = self._take_slot()
                if slot < 0:
                    return 0
            elif not self.reading:
                break
            length = read(fuse_fd, self.slots[slot].base + REQUEST_AT, REQUEST_ROOM)
            if length < 0:
                if errno == EAGAIN:
                    poll(ready, 2, -1)
                    continue
                # ENOENT: the request was withdrawn between waking us and our read.
                if errno == EINTR or errno == ENOENT:
                    continue
                result = errno
                self._give_slot(slot, False)
                return result
            if length < IN_HEADER:
                continue
            if self._submit(index, slot, <uint32_t>length):
                slot = -1
        self._give_slot(slot, False)
        return 0

    cdef bint _submit(self, int index, int slot, uint32_t length) noexcept nogil:
        """Makes a chain of the request in a slot and queues it. False: swallowed, the slot is free for the next one."""
        cdef Slot *s = &self.slots[slot]
        cdef InHeader *header = <InHeader *>(s.base + REQUEST_AT)
        cdef uint8_t *args = s.base + REQUEST_AT + IN_HEADER
        cdef uint32_t opcode = header.opcode
        cdef uint32_t room, size
        cdef Segment segments[5]
        cdef int readable = 1
        cdef int writable = 1
        cdef int head
        cdef VirtqDesc *table
        cdef uint64_t seen
        cdef uint64_t at = s.gpa + REQUEST_AT
        s.opcode = opcode
        s.unique = header.unique
        s.fuse_fd = self.fuse_fds[index]
        if opcode == INTERRUPT or opcode == NOTIFY_REPLY:
            # The virtio driver never sends either.
            pthread_mutex_lock(&self.pool_lock)
            self.interrupts += 1
            pthread_mutex_unlock(&self.pool_lock)
            return False
        if opcode == INIT and self.init_length:
            if self._answer_init(s):
                return False
        segments[0].gpa, segments[0].length = at, IN_HEADER
        if opcode == FORGET or opcode == BATCH_FORGET:
            index = 0
            segments[0].length = length
            writable = 0
            s.reply_room = 0
        else:
            if opcode == WRITE and length >= IN_HEADER + WRITE_IN:
                segments[1].gpa, segments[1].length = at + IN_HEADER, WRITE_IN
                segments[2].gpa, segments[2].length = at + IN_HEADER + WRITE_IN, length - IN_HEADER - WRITE_IN
                readable = 3 if segments[2].length else 2
            elif length > IN_HEADER:
                segments[1].gpa, segments[1].length = at + IN_HEADER, length - IN_HEADER
                readable = 2
            room = self.reply_sizes[opcode] if opcode < OPCODES else UNKNOWN_OUT
            if opcode == READ or opcode == READDIR or opcode == READDIRPLUS:
                room = get32(args + 16)
            elif opcode == GETXATTR or opcode == LISTXATTR:
                size = get32(args)
                room = size if size else 8
            elif opcode == IOCTL:
                size = get32(args + 28)
                room = 16 + (size if size < DATA_ROOM - 16 else DATA_ROOM - 16)
            if room > DATA_ROOM:
                room = DATA_ROOM
            segments[readable].gpa, segments[readable].length = s.gpa + REPLY_AT, OUT_HEADER
            if room:
                segments[readable + 1].gpa, segments[readable + 1].length = s.gpa + REPLY_AT + OUT_HEADER, room
                writable = 2
            s.reply_room = OUT_HEADER + room
        pthread_mutex_lock(&self.pool_lock)
        self.active += 1
        self.requests += 1
        self.by_opcode[opcode if opcode < OPCODES else 0] += 1
        pthread_mutex_unlock(&self.pool_lock)
        table = <VirtqDesc *>s.base if self.indirect[index] else NULL
        while True:
            seen = self.given_back
            head = ring_add(self.rings[index], segments, readable, writable, table, s.gpa, <uint32_t>slot)
            if head >= 0:
                break
            # The ring is full (chains without an indirect table, or fewer entries than slots): wait for an answer.
            pthread_mutex_lock(&self.pool_lock)
            self.waiting_for_room += 1
            while self.given_back == seen and not self.dead:
                pthread_cond_wait(&self.pool_changed, &self.pool_lock)
            self.waiting_for_room -= 1
            pthread_mutex_unlock(&self.pool_lock)
            if self.dead:
                return True
        ring_kick(self.rings[index], False)
        return True

    cdef bint _answer_init(self, Slot *s) noexcept nogil:
        """Answers the kernel's INIT with the negotiation that a restored state was made under. False: not asked to."""
        cdef OutHeader *out
        if self.init_seen:
            return False
        memcpy(s.base + REPLY_AT, self.init_reply, self.init_length)
        out = <OutHeader *>(s.base + REPLY_AT)
        out.len = self.init_length
        out.error = 0
        out.unique = s.unique
        self._note_init(s, self.init_length)
        write(s.fuse_fd, out, out.len)
        return True

    cdef int _complete_requests(self, int index) noexcept nogil:
        cdef Ring *ring = self.rings[index]
        cdef uint32_t used = 0, slot = 0
        cdef uint64_t count
        cdef int head
        while True:
            head = ring_take(ring, &used, &slot)
            if head >= 0:
                if self.slots[slot].reply_room:
                    self._reply(&self.slots[slot], used)
                self._give_slot(<int>slot, True)
                continue
            if head != -EAGAIN:
                self.broken_ring = True
                return -head
            if ring_arm(ring):
                continue
            if self.stopping:
                return 0
            # Blocking: the counter of the call eventfd is also how `stop` wakes us.
            read(ring.call_fd, &count, 8)

    cdef void _reply(self, Slot *s, uint32_t used) noexcept nogil:
        """Writes the answer in a slot to the kernel. A kernel that waits gets one in any case."""
        cdef OutHeader *out = <OutHeader *>(s.base + REPLY_AT)
        cdef OutHeader failed
        cdef uint32_t length = out.len
        cdef bint usable
        cdef ssize_t written
        usable = OUT_HEADER <= length <= s.reply_room and used >= OUT_HEADER and out.unique == s.unique
        if not usable or length != used:
            self._complain(s, used, length)
        if not usable:
            length = 0
        elif s.opcode == INIT:
            self._note_init(s, length)
        if length:
            written = write(s.fuse_fd, out, length)
            # ENOENT: the request was aborted meanwhile. ENODEV: unmounted.
            if written >= 0 or errno != EINVAL:
                return
            if used == length:
                self._complain(s, used, length)
        failed.len = OUT_HEADER
        failed.error = -EIO
        failed.unique = s.unique
        write(s.fuse_fd, &failed, OUT_HEADER)

    cdef void _complain(self, Slot *s, uint32_t used, uint32_t length) noexcept nogil:
        pthread_mutex_lock(&self.pool_lock)
        self.bad_replies += 1
        self.bad_opcode = s.opcode
        self.bad_used = used
        self.bad_length = length
        pthread_mutex_unlock(&self.pool_lock)

    cdef void _note_init(self, Slot *s, uint32_t length) noexcept nogil:
        """Keeps the negotiation, with request sizes cut down to what a slot holds."""
        cdef OutHeader *out = <OutHeader *>(s.base + REPLY_AT)
        cdef uint8_t *init = s.base + REPLY_AT + OUT_HEADER
        cdef uint32_t max_write = DATA_ROOM
        cdef uint16_t max_pages = MAX_PAGES
        # struct fuse_init_out: major, minor, max_readahead, flags, max_background + congestion_threshold, max_write,
        # time_gran, max_pages
        if out.error == 0 and length >= OUT_HEADER + 24:
            if get32(init + 20) > DATA_ROOM:
                memcpy(init + 20, &max_write, 4)
            if length >= OUT_HEADER + 30 and (init[28] | (init[29] << 8)) > MAX_PAGES:
                memcpy(init + 28, &max_pages, 2)
        pthread_mutex_lock(&self.pool_lock)
        self.init_seen = True
        self.init_error = -out.error
        self.init_length = length if length <= sizeof(self.init_reply) else 0
        memcpy(self.init_reply, out, self.init_length)
        pthread_cond_broadcast(&self.pool_changed)
        pthread_mutex_unlock(&self.pool_lock)

    # Steering, from any thread

    cdef int _wait(self, bint for_init, double timeout) noexcept nogil:
        cdef timespec until
        cdef int result = 0
        clock_gettime(CLOCK_MONOTONIC, &until)
        until.tv_sec += <long>timeout
        until.tv_nsec += <long>((timeout - <long>timeout) * 1e9)
        if until.tv_nsec >= 1000000000:
            until.tv_sec += 1
            until.tv_nsec -= 1000000000
        pthread_mutex_lock(&self.pool_lock)
        while result == 0:
            if self.dead or (for_init and self.init_seen):
                break
            if not for_init and self.active == 0:
                break
            result = pthread_cond_timedwait(&self.pool_changed, &self.pool_lock, &until)
        pthread_mutex_unlock(&self.pool_lock)
        return result

    def wait_for_init(self, double timeout):
        """The errno of the answer to the kernel's INIT (0: mounted), or None when none came within ``timeout``
        seconds.
        """
        cdef int result
        with nogil:
            result = self._wait(True, timeout)
        return self.init_error if self.init_seen and not result else None

    def wait_idle(self, double timeout):
        """True once no request is in flight, False when that took longer than ``timeout`` seconds."""
        cdef int result
        with nogil:
            result = self._wait(False, timeout)
        return result == 0 and not self.dead

    def pause(self):
        """Makes every ``read_requests`` return after the request that it is at. What is in flight goes on."""
        cdef uint64_t one = 1
        pthread_mutex_lock(&self.pool_lock)
        self.reading = False
        pthread_cond_broadcast(&self.pool_changed)
        pthread_mutex_unlock(&self.pool_lock)
        write(self.stop_fd, &one, 8)

    def resume(self):
        """Allows ``read_requests`` again; all of them must have returned."""
        cdef uint64_t count
        os.set_blocking(self.stop_fd, False)
        read(self.stop_fd, &count, 8)
        self.reading = True

    def stop(self):
        """Makes every ``complete_requests`` return once nothing is left to give to the kernel."""
        cdef uint64_t one = 1
        cdef int i
        self.stopping = True
        for i in range(self.queue_count):
            write(self.rings[i].call_fd, &one, 8)

    def abandon(self):
        """As ``pause``, for a back-end that will not answer any more: nobody waits for it. There is no way back."""
        self.pause()
        pthread_mutex_lock(&self.pool_lock)
        self.dead = True
        pthread_cond_broadcast(&self.pool_changed)
        pthread_mutex_unlock(&self.pool_lock)

    def send_destroy(self):
        """Queues a DESTROY of our own: the kernel sends one for virtiofs but not for a mount through ``/dev/fuse``."""
        cdef InHeader *header
        cdef int slot
        if not self.reading:
            self.resume()
        slot = self._take_slot()
        if slot < 0:
            return
        header = <InHeader *>(self.slots[slot].base + REQUEST_AT)
        memset(header, 0, IN_HEADER)
        header.len = IN_HEADER
        header.opcode = DESTROY
        header.unique = 2
        with nogil:
            self._submit(1, slot, IN_HEADER)

    @property
    def init_answer(self):
        """The whole answer to INIT as bytes, header included; empty before it came."""
        return bytes(self.init_reply[: self.init_length])

    @init_answer.setter
    def init_answer(self, bytes value):
        """Makes the next INIT be answered with this instead of by the back-end: for one that was given its state."""
        if not OUT_HEADER < len(value) <= 128:
            raise ValueError("not an answer to INIT")
        memcpy(self.init_reply, <const uint8_t *>value, <size_t>len(value))
        self.init_length = <uint32_t>len(value)
        self.init_seen = False

    @property
    def in_flight(self):
        return self.active

    @property
    def counts(self):
        """``(requests, swallowed, bad replies)`` so far."""
        return self.requests, self.interrupts, self.bad_replies

    @property
    def opcode_counts(self):
        """Requests so far by opcode, those seen only."""
        return {i: self.by_opcode[i] for i in range(OPCODES) if self.by_opcode[i]}

    @property
    def last_bad_reply(self):
        """``(opcode, used length, length in the header)`` of the last answer that did not fit its request, or None."""
        if not self.bad_replies:
            return None
        return self.bad_opcode, self.bad_used, self.bad_length
