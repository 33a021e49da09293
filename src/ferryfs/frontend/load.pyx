"""A load generator: prepared FUSE requests, many in flight on one request queue, latencies taken without the GIL.

A *lane* is a sequence of requests that is repeated, one at a time; as many requests are in flight as there are lanes. A
request can take bytes out of the answer to an earlier one of its lane (the handle of an OPEN for the RELEASE).
"""

from array import array

from libc.errno cimport EAGAIN, EPROTO, ETIMEDOUT
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.unistd cimport read

from ferryfs.frontend.driver cimport (
    DriverQueue,
    Ring,
    Segment,
    VirtqDesc,
    ring_add,
    ring_arm,
    ring_disarm,
    ring_kick,
    ring_take,
)
from ferryfs.frontend.ram cimport GuestRam

from ferryfs.errors import PeerError

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
    OUT_HEADER = 16
    UNIQUE_AT = 8  # in both headers
    PATCHES = 4
    STALL_MS = 30000  # a daemon that is silent for so long has lost an answer
    SPIN = 256
    # A cookie of the high-priority queue is a lane and a position in it.
    LANE_SHIFT = 14
    LANE_MOST = 1 << LANE_SHIFT

cdef struct Prepared:
    Segment *segments
    int readable
    int writable
    VirtqDesc *table
    uint64_t table_gpa
    uint8_t *request
    uint8_t *reply  # NULL: none is expected
    uint32_t reply_room
    int32_t expected_error
    int patches
    int patch_of[4]
    uint32_t patch_from[4]
    uint32_t patch_to[4]
    bint hiprio
    bint busy  # a FORGET that the back-end has not given back yet
    uint64_t started_ns

cdef struct Lane:
    Prepared *requests
    int count
    int at


cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


class LoadRequest:
    """One request of a lane.

    ``readable``: its bytes, from the header on; ``writable``: the sizes of the reply's buffers, the first one for the
    header, none for a request without an answer. ``expected_error``: the (positive) errno that counts as success.
    ``patch``: triples (position in the lane, offset in the reply to the request there, offset in this request), eight
    bytes each. ``hiprio``: goes to the high-priority queue and is not waited for.
    """

    __slots__ = ("expected_error", "hiprio", "patch", "readable", "writable")

    def __init__(self, readable, writable, *, expected_error=0, patch=(), hiprio=False):
        self.readable = tuple(readable)
        self.writable = tuple(writable)
        self.expected_error = expected_error
        self.patch = tuple(patch)
        self.hiprio = hiprio


class LoadResult:
    """What a run measured. ``latencies_ns[i]`` belongs to the request at ``positions[i]`` of its lane; ``done`` counts
    also what came after the arrays were full. ``errors``: answers with another error than the expected one, the first
    of them as (position, errno).
    """

    __slots__ = ("done", "errors", "first_error", "kicks", "latencies_ns", "positions", "seconds")


cdef class LoadGenerator:
    """Lanes prepared in guest memory, to be run as often as wanted on ``queue`` (and ``hiprio`` for requests that ask
    for it).

    The memory is the queue's; ``GuestRam.rewind`` gives it back once the generator is not used any more.
    """

    cdef GuestRam ram
    cdef DriverQueue queue
    cdef DriverQueue hiprio
    cdef Lane *lanes
    cdef int lane_count
    cdef uint64_t unique
    cdef uint64_t *latencies
    cdef uint16_t *positions
    cdef uint64_t capacity
    cdef uint64_t recorded
    cdef int recorded_lane  # -1: all
    cdef uint64_t done
    cdef uint64_t errors
    cdef uint64_t kicks
    cdef int first_position
    cdef int first_errno

    def __cinit__(self):
        self.lanes = NULL
        self.latencies = NULL
        self.positions = NULL
        self.lane_count = 0

    def __init__(self, DriverQueue queue not None, lanes, DriverQueue hiprio=None):
        cdef int i, j
        cdef Lane *lane
        self.queue = queue
        self.hiprio = hiprio
        self.ram = queue.ram
        self.unique = 2
        if not lanes or len(lanes) > queue.size or not all(0 < len(lane) <= LANE_MOST for lane in lanes):
            raise ValueError("at least one lane, at most as many as the queue has entries, of 1 to 16384 requests")
        self.lanes = <Lane *>calloc(<size_t>len(lanes), sizeof(Lane))
        if self.lanes == NULL:
            raise MemoryError
        self.lane_count = len(lanes)
        for i in range(self.lane_count):
            lane = &self.lanes[i]
            lane.requests = <Prepared *>calloc(<size_t>len(lanes[i]), sizeof(Prepared))
            if lane.requests == NULL:
                raise MemoryError
            lane.count = len(lanes[i])
            for j in range(lane.count):
                self._prepare(&lane.requests[j], lanes[i][j], lanes[i][:j])

    def __dealloc__(self):
        cdef int i, j
        for i in range(self.lane_count):
            for j in range(self.lanes[i].count):
                free(self.lanes[i].requests[j].segments)
            free(self.lanes[i].requests)
        free(self.lanes)
        free(self.latencies)
        free(self.positions)

    cdef int _prepare(self, Prepared *p, request, earlier) except -1:
        cdef int total = len(request.readable) + len(request.writable)
        cdef int i = 0
        cdef uint64_t gpa
        cdef uint64_t size = sum(map(len, request.readable))
        if size < 40 or len(request.patch) > PATCHES or (request.hiprio and self.hiprio is None):
            raise ValueError("a request has a header, at most 4 patches, and a queue to go to")
        p.segments = <Segment *>calloc(<size_t>total, sizeof(Segment))
        if p.segments == NULL:
            raise MemoryError
        if self.queue.indirect:
            p.table_gpa = self.ram.alloc(16 * total)
            p.table = <VirtqDesc *>self.ram.window(p.table_gpa, 16 * total)
        p.readable = len(request.readable)
        p.writable = len(request.writable)
        p.hiprio = request.hiprio
        p.expected_error = request.expected_error
        gpa = self.ram.alloc(size, align=16)
        p.request = self.ram.window(gpa, size)
        for data in request.readable:
            self.ram.write(gpa, data)
            p.segments[i].gpa, p.segments[i].length = gpa, len(data)
            gpa += len(data)
            i += 1
        if request.writable:
            # One piece, so that patches can take bytes from anywhere; data pages aligned, as a guest's are.
            size = sum(request.writable)
            gpa = self.ram.alloc(size + PAGE, align=PAGE) + PAGE - OUT_HEADER
            p.reply = self.ram.window(gpa, size)
            p.reply_room = <uint32_t>size
            for length in request.writable:
                p.segments[i].gpa, p.segments[i].length = gpa, length
                gpa += length
                i += 1
        for i, (position, source, target) in enumerate(request.patch):
            if not 0 <= position < len(earlier) or source + 8 > sum(earlier[position].writable):
                raise ValueError("a patch takes eight bytes of the answer to an earlier request of the lane")
            if target + 8 > sum(map(len, request.readable)):
                raise ValueError("a patch lies outside of its request")
            p.patch_of[i], p.patch_from[i], p.patch_to[i] = position, source, target
            p.patches = i + 1
        return 0

    def run(self, *, count=None, seconds=None, bint polling=False, int capacity=1 << 20, int lane=-1):
        """Runs until ``count`` answers or ``seconds`` are reached and every lane is at its end.

        ``polling``: looks for answers all the time instead of being called. At most ``capacity`` latencies are kept,
        of one ``lane`` or of all.
        Raises PeerError when the back-end loses an answer or answers what was not asked.
        """
        cdef uint64_t limit = (1 << 62) if count is None else count
        cdef uint64_t duration = (1 << 62) if seconds is None else <uint64_t>(seconds * 1e9)
        cdef uint64_t start
        cdef int result
        if count is None and seconds is None:
            raise ValueError("give a count or a time")
        free(self.latencies)
        free(self.positions)
        self.capacity = <uint64_t>capacity if count is None else min(<uint64_t>capacity, limit + self.lane_count)
        self.latencies = <uint64_t *>calloc(self.capacity, 8)
        self.positions = <uint16_t *>calloc(self.capacity, 2)
        if self.latencies == NULL or self.positions == NULL:
            self.capacity = 0
            raise MemoryError
        self.recorded = self.done = self.errors = self.kicks = 0
        self.recorded_lane = lane
        self.first_position = self.first_errno = 0
        start = now_ns()
        with nogil:
            result = self._run(limit, start + duration, polling)
        if result == -ETIMEDOUT:
            raise PeerError(f"The daemon has not answered for {STALL_MS // 1000} s: it lost a request.")
        if result == -EPROTO:
            raise PeerError("The daemon answered a request that was not in flight.")
        if result < 0:
            raise ValueError("the ring has no room for the lanes")
        found = LoadResult()
        found.seconds = (now_ns() - start) / 1e9
        found.done, found.errors, found.kicks = self.done, self.errors, self.kicks
        found.first_error = (self.first_position, self.first_errno) if self.errors else None
        found.latencies_ns = array("Q")
        found.positions = array("H")
        found.latencies_ns.frombytes((<uint8_t *>self.latencies)[: self.recorded * 8])
        found.positions.frombytes((<uint8_t *>self.positions)[: self.recorded * 2])
        return found

    cdef int _run(self, uint64_t limit, uint64_t until_ns, bint polling) noexcept nogil:
        cdef Ring *ring = &self.queue.ring
        cdef int i, head, active, result, idle = 0
        cdef uint32_t used = 0, cookie = 0
        cdef uint64_t now = 0, wakeups = 0, progress_ns = now_ns()
        cdef Lane *lane
        cdef bint taken, ending = False
        cdef pollfd entry
        entry.fd = ring.call_fd
        entry.events = POLLIN
        if polling:
            ring_disarm(ring)
        for i in range(self.lane_count):
            self.lanes[i].at = 0
            result = self._submit(i)
            if result < 0:
                return result
        active = self.lane_count
        self.kicks += 1
        ring_kick(ring, False)
        while active:
            taken = False
            while True:
                head = ring_take(ring, &used, &cookie)
                if head == -EAGAIN:
                    break
                if head < 0:
                    return head
                taken = True
                now = now_ns()
                if self.done + 1 >= limit or now >= until_ns:
                    ending = True
                lane = &self.lanes[cookie]
                self._finish(lane, used, now)
                lane.at += 1
                if lane.at == lane.count:
                    lane.at = 0
                    if ending:
                        active -= 1
                        continue
                result = self._submit(<int>cookie)
                if result < 0:
                    return result
                if result:
                    # The lane went through its end (a FORGET is last).
                    if ending:
                        active -= 1
                        continue
                    result = self._submit(<int>cookie)
                    if result < 0:
                        return result
            if taken:
                idle = 0
                progress_ns = now
                self.kicks += 1
                ring_kick(ring, False)
                continue
            if polling:
                idle += 1
                if idle % SPIN == 0 and now_ns() - progress_ns > <uint64_t>STALL_MS * 1000000:
                    return -ETIMEDOUT
                continue
            if ring_arm(ring):
                continue
            if poll(&entry, 1, STALL_MS) == 0:
                return -ETIMEDOUT
            read(ring.call_fd, &wakeups, 8)
        # Nothing may be left for the next generator on these queues, which could not tell whose it is.
        for i in range(self.lane_count):
            for head in range(self.lanes[i].count):
                if self.lanes[i].requests[head].busy:
                    result = self._await_forget(&self.lanes[i].requests[head])
                    if result < 0:
                        return result
        return 0

    cdef void _finish(self, Lane *lane, uint32_t used, uint64_t now) noexcept nogil:
        cdef Prepared *p = &lane.requests[lane.at]
        cdef uint32_t length = 0
        cdef int32_t error = 0
        cdef uint64_t unique = 0
        if self.recorded < self.capacity and (self.recorded_lane < 0 or lane == &self.lanes[self.recorded_lane]):
            self.latencies[self.recorded] = now - p.started_ns
            self.positions[self.recorded] = <uint16_t>lane.at
            self.recorded += 1
        self.done += 1
        if p.reply == NULL:
            return
        memcpy(&length, p.reply, 4)
        memcpy(&error, p.reply + 4, 4)
        memcpy(&unique, p.reply + UNIQUE_AT, 8)
        if length != used or used < OUT_HEADER or memcmp_unique(p, unique):
            error = -EPROTO
        if error != -p.expected_error:
            if self.errors == 0:
                self.first_position = lane.at
                self.first_errno = -error
            self.errors += 1

    cdef int _submit(self, int index) noexcept nogil:
        """Queues the request at which a lane is, and before it those that are not waited for. 1: the lane's end was
        reached.
        """
        cdef Lane *lane = &self.lanes[index]
        cdef Prepared *p
        cdef int i, result
        cdef uint32_t cookie
        while True:
            p = &lane.requests[lane.at]
            if p.hiprio and p.busy:
                result = self._await_forget(p)
                if result < 0:
                    return result
            self.unique += 2
            memcpy(p.request + UNIQUE_AT, &self.unique, 8)
            for i in range(p.patches):
                memcpy(p.request + p.patch_to[i], lane.requests[p.patch_of[i]].reply + p.patch_from[i], 8)
            p.started_ns = now_ns()
            if not p.hiprio:
                result = ring_add(
                    &self.queue.ring, p.segments, p.readable, p.writable, p.table, p.table_gpa, <uint32_t>index
                )
                return result if result < 0 else 0
            p.busy = True
            cookie = <uint32_t>(index << LANE_SHIFT | lane.at)
            result = ring_add(
                &self.hiprio.ring, p.segments, p.readable, p.writable, p.table, p.table_gpa, cookie
            )
            if result < 0:
                return result
            ring_kick(&self.hiprio.ring, False)
            lane.at += 1
            if lane.at == lane.count:
                lane.at = 0
                return 1

    cdef int _await_forget(self, Prepared *wanted) noexcept nogil:
        """Takes back what the high-priority queue is done with, until a request is among it."""
        cdef uint32_t used = 0, cookie = 0
        cdef int head
        cdef uint64_t until = now_ns() + <uint64_t>STALL_MS * 1000000
        while wanted.busy:
            head = ring_take(&self.hiprio.ring, &used, &cookie)
            if head >= 0:
                self.lanes[cookie >> LANE_SHIFT].requests[cookie & (LANE_MOST - 1)].busy = False
            elif head != -EAGAIN:
                return head
            elif now_ns() > until:
                return -ETIMEDOUT
        return 0


cdef inline bint memcmp_unique(Prepared *p, uint64_t unique) noexcept nogil:
    cdef uint64_t asked = 0
    memcpy(&asked, p.request + UNIQUE_AT, 8)
    return asked != unique
