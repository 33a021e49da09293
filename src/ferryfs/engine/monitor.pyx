"""The monitor: a thread that looks every TICK_NS whether a leader is still inside the request of the look before, and hands its
ring on; and that calls one more finisher when what was put off does not get on.
"""

from libc.errno cimport ENOMEM
from libc.stdint cimport uint64_t
from posix.time cimport timespec

from ferryfs.engine.threads cimport (
    SIG_SETMASK, pthread_attr_destroy, pthread_attr_init, pthread_attr_setstacksize, pthread_attr_t, pthread_cond_wait,
    pthread_create, pthread_mutex_lock, pthread_mutex_unlock, pthread_self, pthread_setname_np, pthread_sigmask, sigfillset, sigset_t,
)
from ferryfs.engine.workers cimport Pool, Ring, STACK_SIZE, Worker, call_finisher, hand_on, may_run
from ferryfs.ring.atomics cimport ferry_fence, ferry_load_int, ferry_load_own_u64, ferry_load_pointer, ferry_store_int


cdef extern from "time.h" nogil:
    int clock_nanosleep(int clock, int flags, const timespec *request, timespec *remain)
    int CLOCK_MONOTONIC


cdef enum:
    SEEN_IDLE = 0
    SEEN_WORK = 1
    SEEN_INSIDE = 2
    # A request is seen by one look and found to wait by the next. Together 1 ms. It looks less often while it sees
    # every leader between requests: with one request in flight, its looks are what costs.
    TICK_NS = 400000                # behind a look that saw a request under way
    CALM_TICK_NS = 600000           # behind one that saw none
    QUIET_TICKS = 4                 # with nothing under way until the monitor goes to sleep


cdef int look_at(Ring *ring) noexcept nogil:
    """Hands the ring on when its leader is in the same request as at the last look. SEEN_IDLE, SEEN_WORK when it has served
    since, SEEN_INSIDE when it is in a request just now.

    A look takes no lock: the monitor often wakes on the leader's processor, in the middle of what that does under the lock, and
    both would sleep for each other. Workers live as long as the pool, so whoever led a moment ago can be looked at.

    1. the leader is seen inside of a request for the second time, 2. it comes back, or its ring goes to another worker, 3. the
    monitor hands the ring on: so it looks again under the lock, where the leader can't change nor begin a request.
    """
    cdef Worker *worker = <Worker *>ferry_load_pointer(<void **>&ring.leader)
    cdef uint64_t sequence
    cdef int seen = SEEN_IDLE
    if worker == NULL:
        return SEEN_IDLE
    sequence = ferry_load_own_u64(&worker.sequence)
    if sequence & 1:
        seen = SEEN_INSIDE
    elif sequence != worker.seen:
        seen = SEEN_WORK
    if sequence & 1 and sequence == worker.seen:
        pthread_mutex_lock(&ring.lock)
        if ring.leader == worker and ferry_load_own_u64(&worker.sequence) == sequence and may_run(ring):
            hand_on(ring)
        pthread_mutex_unlock(&ring.lock)
    worker.seen = sequence
    return seen


cdef bint is_at_work(Pool *pool) noexcept nogil:
    """Whether a leader is inside of a request, or has served one since the last look."""
    cdef Worker *worker
    cdef int i
    for i in range(pool.ring_count):
        worker = <Worker *>ferry_load_pointer(<void **>&pool.rings[i].leader)
        if worker != NULL and (worker.sequence & 1 or ferry_load_own_u64(&worker.sequence) != worker.seen):
            return True
    return False


cdef void *watch(void *argument) noexcept nogil:
    """The monitor: wakes every TICK_NS while requests are served, and sleeps when there are none."""
    cdef Pool *pool = <Pool *>argument
    cdef timespec tick
    cdef sigset_t signals
    cdef int quiet = 0
    cdef int i
    cdef int seen
    cdef int most = SEEN_INSIDE
    sigfillset(&signals)
    pthread_sigmask(SIG_SETMASK, &signals, NULL)
    pthread_setname_np(pthread_self(), "ferry-monitor")
    tick.tv_sec = 0
    while True:
        pthread_mutex_lock(&pool.lock)
        if quiet >= QUIET_TICKS and not pool.closing:
            ferry_store_int(&pool.monitor_sleeps, 1)
            ferry_fence()
            if is_at_work(pool):
                pool.monitor_sleeps = 0
            while pool.monitor_sleeps and not pool.closing:
                pthread_cond_wait(&pool.monitor_wake, &pool.lock)
            quiet = 0
            most = SEEN_INSIDE
        if pool.closing:
            pthread_mutex_unlock(&pool.lock)
            return NULL
        pthread_mutex_unlock(&pool.lock)
        tick.tv_nsec = TICK_NS if most == SEEN_INSIDE else CALM_TICK_NS
        clock_nanosleep(CLOCK_MONOTONIC, 0, &tick, NULL)
        most = SEEN_IDLE
        for i in range(pool.ring_count):
            if ferry_load_int(&pool.rings[i].started):
                seen = look_at(&pool.rings[i])
                most = seen if seen > most else most
        if look_at_put_off(pool):
            most = SEEN_INSIDE
        quiet = 0 if most != SEEN_IDLE else quiet + 1


cdef bint look_at_put_off(Pool *pool) noexcept nogil:
    """Whether anything is put off; calls one finisher more when none has answered since the last look."""
    cdef uint64_t finished
    if not ferry_load_int(&pool.put_off_count):
        return False
    finished = ferry_load_own_u64(&pool.finished)
    if finished == pool.finished_seen:
        pthread_mutex_lock(&pool.lock)
        if pool.put_off != NULL:
            call_finisher(pool)
        pthread_mutex_unlock(&pool.lock)
    pool.finished_seen = finished
    return True


cdef int start_monitor(Pool *pool) noexcept nogil:
    """Under Pool.lock; 0 or -ENOMEM."""
    cdef pthread_attr_t attributes
    cdef int failed
    if pool.monitor_runs:
        return 0
    pthread_attr_init(&attributes)
    pthread_attr_setstacksize(&attributes, STACK_SIZE)
    failed = pthread_create(&pool.monitor, &attributes, watch, pool)
    pthread_attr_destroy(&attributes)
    pool.monitor_runs = not failed
    return -ENOMEM if failed else 0
