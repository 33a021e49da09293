"""Threads that serve virtqueues, without the GIL.

Each ring that runs has one leader: it takes requests, serves them, publishes the answers, and sleeps when there is nothing. When
its request waits (fsync, a cold read, a slow lookup), the ring is handed to a spare worker, which leads from then on; the old leader
publishes its one answer when it has it, and becomes a spare. The common case is queued nowhere and costs one lock.

Who hands on: the leader itself, when it knows that its call will wait (may_block); else the monitor (``monitor``).

A request that is under way without anybody's waiting (a scattered cold READ, which the disk is fetching), or that will hardly wait
(FSYNC of a file without changes), is put off instead: it goes into a queue, and the leader on to the next one. A finisher serves what
is in this queue again, from the beginning, in its order; one is enough for READs while it gets on, and then it hardly ever sleeps.
The monitor calls one more when none has answered between two looks.

1. the leader takes a request, 2. GET_VRING_BASE sets `pauses` and waits, 3. the leader would take another one: so `pauses` is looked
at under the ring's lock before each pop, and the waiter is only let go when neither a leader nor a request is left.

1. the leader finds the ring empty and asks for a kick, 2. the guest kicks, 3. the leader sleeps: the kick fd is in an epoll set,
edge-triggered, so a kick since the last sleep ends the next one at once; nothing has to be read from it.
"""

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from ferryfs.engine.creds cimport settle
from ferryfs.engine.dispatch cimport is_slow, serve
from ferryfs.engine.events cimport EVENT_BAD_CHAIN, EVENT_BROKEN_RING, EVENT_TROUBLE, event_post
from ferryfs.engine.jobs cimport Job, free_job, make_job
from ferryfs.engine.server cimport SERVED_LATER, Request, Server
from ferryfs.engine.sys cimport write
from ferryfs.engine.threads cimport (
    SIG_SETMASK, SIGBUS_, SIGSEGV_, pthread_attr_destroy, pthread_attr_init, pthread_attr_setstacksize, pthread_attr_t,
    pthread_cond_broadcast, pthread_cond_destroy, pthread_cond_init, pthread_cond_signal, pthread_cond_wait, pthread_create,
    pthread_join, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock, pthread_self,
    pthread_setname_np, pthread_sigmask, sigdelset, sigfillset, sigset_t,
)
from ferryfs.ring.atomics cimport (
    ferry_fence, ferry_load_int, ferry_relax, ferry_store_int, ferry_store_own_u64, ferry_store_pointer,
)
from ferryfs.ring.chain cimport chain_mark
from ferryfs.ring.queue cimport (
    QUEUE_BAD_CHAIN, QUEUE_BROKEN, QUEUE_EMPTY, queue_has_more, queue_pop, queue_push, queue_rest, queue_should_notify, queue_wake,
)


cdef extern from "sys/epoll.h" nogil:
    struct epoll_event:
        pass
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout)
    short POLLOUT

cdef enum:
    WITHOUT_KICK_MS = 1         # how often a ring without a kick fd is looked at (vhost-user: the back-end polls)


# ---- announcing ------------------------------------------------------------------------------------------------------------


cdef void signal_eventfd(int fd, bint may_block) noexcept nogil:
    """Raises a front-end's eventfd. One that it let run full is left as it is: it says already what we have to say."""
    cdef uint64_t one = 1
    cdef pollfd full
    if may_block:
        full.fd = fd
        full.events = POLLOUT
        full.revents = 0
        if poll(&full, 1, 0) <= 0 or not full.revents & POLLOUT:
            return
    write(fd, &one, 8)


cdef void announce(Ring *ring) noexcept nogil:
    """Tells the guest of the answers it has not been told of, if it wants to know; under the ring's lock."""
    ring.unannounced = 0
    if ring.attached and queue_should_notify(&ring.queue) and ring.call_fd >= 0:
        signal_eventfd(ring.call_fd, ring.call_may_block)


# ---- the pool --------------------------------------------------------------------------------------------------------------


cdef bint may_run(const Ring *ring) noexcept nogil:
    return ring.attached and ring.started and ring.enabled and not ring.broken and ring.pauses == 0


cdef void on_may_block(Request *request) noexcept nogil:
    cdef Worker *worker = <Worker *>request.worker
    cdef Ring *ring = worker.ring
    if worker.finishes:
        announce_finished(worker)
        return
    # Also when nothing lies in the ring yet: what comes next would wait for the monitor to look twice.
    pthread_mutex_lock(&ring.lock)
    if ring.leader == worker and may_run(ring):
        hand_on(ring)
    pthread_mutex_unlock(&ring.lock)


cdef bint on_may_put_off(Request *request) noexcept nogil:
    """Whether others wait or would wait behind it: a request alone is answered sooner by who has it."""
    cdef Worker *worker = <Worker *>request.worker
    cdef Ring *ring = worker.ring
    cdef bint others
    pthread_mutex_lock(&ring.lock)
    others = ring.leader == worker and (ring.in_flight > 1 or queue_has_more(&ring.queue))
    pthread_mutex_unlock(&ring.lock)
    return others


cdef Worker *make_worker(Pool *pool) noexcept nogil:
    """A new worker's memory and thread; NULL when there is none to be had. Under Pool.lock."""
    cdef pthread_attr_t attributes
    cdef Worker *worker
    cdef void *block
    cdef int failed
    if pool.worker_count >= pool.max_workers:
        return NULL
    worker = <Worker *>calloc(1, sizeof(Worker))
    if worker == NULL:
        return NULL
    block = realloc(pool.workers, (pool.worker_count + 1) * sizeof(Worker *))
    if block == NULL:
        free(worker)
        return NULL
    pool.workers = <Worker **>block
    worker.pool = pool
    worker.job = make_job(pool.server, on_may_block, on_may_put_off)
    pthread_cond_init(&worker.wake, NULL)
    pthread_attr_init(&attributes)
    pthread_attr_setstacksize(&attributes, STACK_SIZE)
    if worker.job != NULL:
        worker.job.request.worker = worker
    failed = worker.job == NULL or pthread_create(&worker.thread, &attributes, work, worker) != 0
    pthread_attr_destroy(&attributes)
    if failed:
        free_worker(worker)
        return NULL
    pool.workers[pool.worker_count] = worker
    pool.worker_count += 1
    return worker


cdef void free_worker(Worker *worker) noexcept nogil:
    pthread_cond_destroy(&worker.wake)
    free_job(worker.job)
    free(worker)


cdef Worker *take_spare(Pool *pool) noexcept nogil:
    """A worker with nothing to do, or a new one; NULL when there is none to be had. Under Pool.lock."""
    cdef Worker *worker = pool.spares
    if worker == NULL:
        return make_worker(pool)
    pool.spares = worker.next_spare
    return worker


cdef bint hand_on(Ring *ring) noexcept nogil:
    """Gives the ring a new leader, if one is to be had; under the ring's lock. The old one notices when it comes back."""
    cdef Pool *pool = ring.pool
    cdef Worker *worker
    pthread_mutex_lock(&pool.lock)
    worker = NULL if pool.closing else take_spare(pool)
    if worker != NULL:
        worker.ring = ring
        pthread_cond_signal(&worker.wake)
    pthread_mutex_unlock(&pool.lock)
    if worker == NULL:
        return False
    if ring.unannounced:
        announce(ring)
    ferry_store_pointer(<void **>&ring.leader, worker)
    return True


# ---- a worker --------------------------------------------------------------------------------------------------------------


cdef void wake_monitor(Pool *pool) noexcept nogil:
    """By a leader that is inside of a request.

    1. a leader takes a request and finds the monitor awake, 2. the monitor, which has seen nobody at work so far, goes to sleep, 3. the
    request waits and nobody hands the ring on: so both say what they do first, the leader by its sequence, the monitor by
    `monitor_sleeps`, and look at the other behind a full fence.
    """
    ferry_fence()
    if ferry_load_int(&pool.monitor_sleeps):
        pthread_mutex_lock(&pool.lock)
        pool.monitor_sleeps = 0
        pthread_cond_signal(&pool.monitor_wake)
        pthread_mutex_unlock(&pool.lock)


cdef void answer(Ring *ring, Job *job, uint32_t written) noexcept nogil:
    """Publishes an answer; under the ring's lock."""
    chain_mark(&job.chain, ring.pool.memory, job.request.touched if job.request.touched > written else written)
    queue_push(&ring.queue, ring.pool.memory, job.chain.head, written)
    ring.unannounced += 1
    ring.in_flight -= 1


cdef void serve_one(Ring *ring, Worker *worker) noexcept nogil:
    """Serves the request in the worker's chain; called and left with the ring's lock, which is free meanwhile."""
    cdef uint32_t written
    ring.in_flight += 1
    if ring.unannounced and is_slow(&worker.job.request):
        announce(ring)
    pthread_mutex_unlock(&ring.lock)
    worker.job.request.queue = ring.index
    ferry_store_own_u64(&worker.sequence, worker.sequence + 1)
    wake_monitor(ring.pool)
    written = serve(&worker.job.request)
    if written == SERVED_LATER and not put_off(ring, worker):
        worker.job.request.patient = True
        written = serve(&worker.job.request)
        worker.job.request.patient = False
    ferry_store_own_u64(&worker.sequence, worker.sequence + 1)
    pthread_mutex_lock(&ring.lock)
    if written == SERVED_LATER:
        return
    answer(ring, worker.job, written)
    if ring.unannounced >= ANNOUNCE_AT or ring.leader != worker:
        announce(ring)
    if ring.in_flight == 0 and ring.pauses:
        pthread_cond_broadcast(&ring.calm)


cdef void break_ring(Ring *ring) noexcept nogil:
    """Stops a ring that makes no sense, and it alone; under its lock."""
    ring.broken = True
    event_post(&ring.pool.server.events, EVENT_BROKEN_RING, ring.index, 0, "")
    if ring.err_fd >= 0:
        signal_eventfd(ring.err_fd, True)


cdef void rest(Ring *ring) noexcept nogil:
    """Sleeps until there may be something; called and left with the ring's lock, which is free meanwhile."""
    cdef epoll_event event
    cdef int timeout = -1 if ring.kick_fd >= 0 else WITHOUT_KICK_MS
    cdef int fd = ring.epoll_fd
    pthread_mutex_unlock(&ring.lock)
    epoll_wait(fd, &event, 1, timeout)
    pthread_mutex_lock(&ring.lock)


cdef bint look_on(Ring *ring) noexcept nogil:
    """Looks at the empty ring for a moment instead of sleeping at once; True: the guest offers something.

    A guest that polls offers its next request sooner after an answer than anybody can fall asleep. Others don't, and
    looking on is left out ever more often then.
    """
    cdef int _i
    if ring.look_after > 0:
        ring.look_after -= 1
        return False
    for _i in range(LOOKS):
        if queue_has_more(&ring.queue):
            ring.vain = 0
            return True
        ferry_relax()
    if ring.vain < VAIN_MOST:
        ring.vain += 1
    ring.look_after = (1 << ring.vain) - 1
    return False


cdef void lead(Ring *ring, Worker *worker) noexcept nogil:
    """Serves the ring until it is handed on or stopped."""
    cdef int got
    pthread_mutex_lock(&ring.lock)
    while ring.leader == worker:
        if not may_run(ring):
            if ring.unannounced:
                announce(ring)
            ferry_store_pointer(<void **>&ring.leader, NULL)
            pthread_cond_broadcast(&ring.calm)
            break
        got = queue_pop(&ring.queue, ring.pool.memory, &worker.job.chain)
        if ring.finishing:
            pthread_cond_broadcast(&ring.calm)
        if got == QUEUE_EMPTY:
            if ring.unannounced:
                announce(ring)
            if ring.in_flight == 0 and look_on(ring):
                continue
            if not queue_rest(&ring.queue, ring.pool.memory):
                rest(ring)
            if ring.attached:
                queue_wake(&ring.queue, ring.pool.memory)
        elif got == QUEUE_BROKEN:
            break_ring(ring)
        elif got == QUEUE_BAD_CHAIN:
            event_post(&ring.pool.server.events, EVENT_BAD_CHAIN, ring.index, ring.queue.fault, "")
            queue_push(&ring.queue, ring.pool.memory, worker.job.chain.head, 0)
            ring.unannounced += 1
        else:
            serve_one(ring, worker)
    become_spare(worker)
    pthread_mutex_unlock(&ring.lock)


cdef void become_spare(Worker *worker) noexcept nogil:
    """Back among the spares; still under the lock of the ring that it has led or answered.

    1. the last worker leaves a paused ring, 2. the pause ends, and the ring wants a leader, 3. the worker joins the spares: too
    late, so that a thread more would be needed, which a limit of threads may refuse.
    """
    cdef Pool *pool = worker.pool
    pthread_mutex_lock(&pool.lock)
    worker.ring = NULL
    worker.next_spare = pool.spares
    pool.spares = worker
    pthread_mutex_unlock(&pool.lock)


cdef void *work(void *argument) noexcept nogil:
    """A worker's life: leads a ring, or waits among the spares."""
    cdef Worker *worker = <Worker *>argument
    cdef Pool *pool = worker.pool
    cdef Ring *ring
    cdef sigset_t signals
    sigfillset(&signals)
    sigdelset(&signals, SIGBUS_)
    sigdelset(&signals, SIGSEGV_)
    pthread_sigmask(SIG_SETMASK, &signals, NULL)
    pthread_setname_np(pthread_self(), "ferry-worker")
    if settle(&worker.job.request) < 0:
        event_post(&pool.server.events, EVENT_TROUBLE, -1, errno, "a worker could not get its own working directory")
    while True:
        pthread_mutex_lock(&pool.lock)
        while worker.ring == NULL and not worker.finishes and not pool.closing:
            pthread_cond_wait(&worker.wake, &pool.lock)
        ring = worker.ring
        pthread_mutex_unlock(&pool.lock)
        if worker.finishes:
            finish(worker)
        elif ring != NULL:
            lead(ring, worker)
        else:
            return NULL


# ---- what was put off ------------------------------------------------------------------------------------------------------


cdef void give_job(Worker *worker, Job *job) noexcept nogil:
    """Makes it the worker's, which may have settled: that is the thread's."""
    job.request.settled = worker.job.request.settled
    job.request.worker = worker
    worker.job = job


cdef bint call_finisher(Pool *pool) noexcept nogil:
    """One more worker serves what is put off; False when there is none to be had. Under Pool.lock."""
    cdef Worker *worker = NULL if pool.closing else take_spare(pool)
    if worker == NULL:
        return False
    worker.finishes = True
    pool.finishers += 1
    pthread_cond_signal(&worker.wake)
    return True


cdef bint put_off(Ring *ring, Worker *worker) noexcept nogil:
    """Leaves the worker's request to a finisher and gives the worker another job; False when that can't be.

    The request says how many finishers are worth it: for READs one is enough while it gets on, as the disk is at work on all of them
    already. The monitor calls more.

    1. a finisher finds the queue empty, 2. a request is put off, 3. the finisher goes to the spares and nobody serves it: so both
    look at the queue and at `finishers` under Pool.lock.
    """
    cdef Pool *pool = ring.pool
    cdef Job *job = NULL
    pthread_mutex_lock(&pool.lock)
    if pool.finishers < worker.job.request.finishers:
        call_finisher(pool)
    if pool.finishers > 0:
        job = pool.free_jobs
        if job != NULL:
            pool.free_jobs = job.next
        elif pool.job_count < pool.max_workers:
            job = make_job(pool.server, on_may_block, on_may_put_off)
            pool.job_count += job != NULL
    if job != NULL:
        worker.job.owner = ring
        worker.job.next = NULL
        pool.put_off_end[0] = worker.job
        pool.put_off_end = &worker.job.next
        ferry_store_int(&pool.put_off_count, pool.put_off_count + 1)
        give_job(worker, job)
    pthread_mutex_unlock(&pool.lock)
    return job != NULL


cdef void announce_finished(Worker *worker) noexcept nogil:
    """Tells the guest of what this finisher has answered, before it waits or does something else."""
    cdef Ring *ring = worker.answered
    worker.answered = NULL
    if ring != NULL:
        pthread_mutex_lock(&ring.lock)
        if ring.unannounced:
            announce(ring)
        pthread_mutex_unlock(&ring.lock)


cdef void finish_one(Worker *worker, Job *job) noexcept nogil:
    """Serves a request that was put off, and answers it."""
    cdef Ring *ring = <Ring *>job.owner
    cdef uint32_t written
    if worker.answered != ring:
        announce_finished(worker)
    job.request.patient = True
    written = serve(&job.request)
    job.request.patient = False
    pthread_mutex_lock(&ring.lock)
    answer(ring, job, written)
    worker.answered = ring
    # 1. a finisher leaves an answer unannounced, 2. the ring is paused and calm, 3. the guest is told when all has stopped.
    if ring.unannounced >= ANNOUNCE_AT or ring.in_flight == 0 or ring.pauses:
        announce(ring)
        worker.answered = NULL
    if ring.in_flight == 0 and ring.pauses:
        pthread_cond_broadcast(&ring.calm)
    pthread_mutex_unlock(&ring.lock)


cdef void finish(Worker *worker) noexcept nogil:
    """Serves what was put off until nothing is left, and joins the spares."""
    cdef Pool *pool = worker.pool
    cdef Job *own = worker.job
    cdef Job *job
    while True:
        pthread_mutex_lock(&pool.lock)
        if worker.job != own:
            worker.job.next = pool.free_jobs
            pool.free_jobs = worker.job
            ferry_store_own_u64(&pool.finished, pool.finished + 1)
            give_job(worker, own)
        job = pool.put_off
        if job == NULL and worker.answered == NULL:
            break
        if job != NULL:
            pool.put_off = job.next
            if job.next == NULL:
                pool.put_off_end = &pool.put_off
            ferry_store_int(&pool.put_off_count, pool.put_off_count - 1)
            give_job(worker, job)
        pthread_mutex_unlock(&pool.lock)
        if job == NULL:
            announce_finished(worker)
        else:
            finish_one(worker, job)
    worker.finishes = False
    pool.finishers -= 1
    worker.next_spare = pool.spares
    pool.spares = worker
    pthread_mutex_unlock(&pool.lock)


# ---- beginning and end -----------------------------------------------------------------------------------------------------


cdef int pool_init(
    Pool *pool, Server *server, MemoryTable *memory, Ring *rings, int ring_count, int max_blocked
) noexcept nogil:
    """Nothing runs yet: threads come with the first ring. 0 or -errno."""
    memset(pool, 0, sizeof(Pool))
    pthread_mutex_init(&pool.lock, NULL)
    pthread_cond_init(&pool.monitor_wake, NULL)
    pool.server = server
    pool.memory = memory
    pool.rings = rings
    pool.ring_count = ring_count
    pool.max_workers = ring_count + max_blocked
    pool.put_off_end = &pool.put_off
    return 0


cdef void pool_close(Pool *pool) noexcept nogil:
    """Ends all threads. Every ring must be paused."""
    cdef Job *job
    cdef int i
    pthread_mutex_lock(&pool.lock)
    pool.closing = True
    pthread_cond_signal(&pool.monitor_wake)
    for i in range(pool.worker_count):
        pthread_cond_signal(&pool.workers[i].wake)
    pthread_mutex_unlock(&pool.lock)
    if pool.monitor_runs:
        pthread_join(pool.monitor, NULL)
    for i in range(pool.worker_count):
        pthread_join(pool.workers[i].thread, NULL)
        free_worker(pool.workers[i])
    free(pool.workers)
    while pool.free_jobs != NULL:
        job = pool.free_jobs
        pool.free_jobs = job.next
        free_job(job)
    pthread_cond_destroy(&pool.monitor_wake)
    pthread_mutex_destroy(&pool.lock)
    memset(pool, 0, sizeof(Pool))
