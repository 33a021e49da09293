"""Rings coming, pausing and going: the session's side of what workers serve."""

from libc.errno cimport ENOMEM, errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ferryfs.engine.monitor cimport start_monitor
from ferryfs.engine.sys cimport EFD_CLOEXEC, EFD_NONBLOCK, close, eventfd, write
from ferryfs.engine.threads cimport (
    pthread_cond_destroy, pthread_cond_init, pthread_cond_wait, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock,
    pthread_mutex_unlock,
)
from ferryfs.engine.workers cimport announce, hand_on, may_run
from ferryfs.ring.queue cimport queue_offered


cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL
    uint32_t EPOLLIN, EPOLLET


cdef int ring_init(Ring *ring, Pool *pool, int index) noexcept nogil:
    """A stopped ring; 0 or -errno."""
    cdef epoll_event event
    memset(ring, 0, sizeof(Ring))
    pthread_mutex_init(&ring.lock, NULL)
    pthread_cond_init(&ring.calm, NULL)
    ring.pool = pool
    ring.index = index
    ring.kick_fd = ring.call_fd = ring.err_fd = -1
    ring.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    ring.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    if ring.stop_fd < 0 or ring.epoll_fd < 0:
        return -errno
    event.events = EPOLLIN | EPOLLET
    event.data.fd = ring.stop_fd
    return 0 if epoll_ctl(ring.epoll_fd, EPOLL_CTL_ADD, ring.stop_fd, &event) == 0 else -errno


cdef void ring_close(Ring *ring) noexcept nogil:
    """Closes its fds; the pool must be closed."""
    cdef int i
    cdef int[5] fds = [ring.kick_fd, ring.call_fd, ring.err_fd, ring.stop_fd, ring.epoll_fd]
    for i in range(5):
        if fds[i] >= 0:
            close(fds[i])
    pthread_cond_destroy(&ring.calm)
    pthread_mutex_destroy(&ring.lock)


cdef int ring_set_kick(Ring *ring, int fd) noexcept nogil:
    """Replaces the kick fd of a paused ring (-1: none) and takes it over; 0 or -errno (then it is closed)."""
    cdef epoll_event event
    cdef int result = 0
    if ring.kick_fd >= 0:
        epoll_ctl(ring.epoll_fd, EPOLL_CTL_DEL, ring.kick_fd, &event)
        close(ring.kick_fd)
        ring.kick_fd = -1
    if fd >= 0:
        event.events = EPOLLIN | EPOLLET
        event.data.fd = fd
        if epoll_ctl(ring.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
            result = -errno
            close(fd)
        else:
            ring.kick_fd = fd
    return result


cdef void ring_replace_call(Ring *ring, int fd, bint may_block) noexcept nogil:
    """Replaces the fd by which the guest is told (-1: none) and takes it over, also while requests are served: a guest that masks
    its interrupts and takes them again makes QEMU do so, and must not wait for a request that takes long.
    """
    cdef int old
    pthread_mutex_lock(&ring.lock)
    old = ring.call_fd
    ring.call_fd = fd
    ring.call_may_block = may_block
    # What was answered while there was nobody to tell is told now.
    ring.queue.signalled_valid = False
    if ring.attached and ring.started:
        announce(ring)
    pthread_mutex_unlock(&ring.lock)
    if old >= 0:
        close(old)


cdef void ring_replace_err(Ring *ring, int fd) noexcept nogil:
    """The same for the fd by which the front-end is told that the ring is broken."""
    cdef int old
    pthread_mutex_lock(&ring.lock)
    old = ring.err_fd
    ring.err_fd = fd
    pthread_mutex_unlock(&ring.lock)
    if old >= 0:
        close(old)


cdef void ring_finish(Ring *ring) noexcept nogil:
    """Waits until what the guest has offered so far is taken from a ring that runs; for one that is about to be stopped.

    1. the guest offers a request, 2. before its kick has woken anybody the ring is stopped, 3. another back-end goes on with the
    ring, and waits for a kick that never comes: the guest has given it, and gives no other before avail_event is passed again.
    Ours looks without a kick (ring_resume), but the destination of a migration may be another daemon.
    """
    cdef uint64_t one = 1
    cdef uint16_t offered
    cdef uint16_t ahead
    pthread_mutex_lock(&ring.lock)
    if may_run(ring) and ring.leader != NULL:
        offered = queue_offered(&ring.queue)
        ahead = offered - ring.queue.last_avail
        ring.finishing += 1
        write(ring.stop_fd, &one, 8)
        # Once it is passed the difference starts again from the top, and a guest that goes on offering keeps nobody here.
        while may_run(ring) and 0 < ahead <= ring.queue.num:
            pthread_cond_wait(&ring.calm, &ring.lock)
            ahead = offered - ring.queue.last_avail
        ring.finishing -= 1
    pthread_mutex_unlock(&ring.lock)


cdef void ring_pause(Ring *ring) noexcept nogil:
    """Waits until nobody leads the ring and none of its requests is in flight; nests. Other rings go on."""
    cdef uint64_t one = 1
    pthread_mutex_lock(&ring.lock)
    ring.pauses += 1
    if ring.leader != NULL:
        write(ring.stop_fd, &one, 8)
    while ring.leader != NULL or ring.in_flight > 0:
        pthread_cond_wait(&ring.calm, &ring.lock)
    pthread_mutex_unlock(&ring.lock)


cdef int ring_resume(Ring *ring) noexcept nogil:
    """Ends a pause; the last one gives the ring a leader if it can run, who looks at it once without a kick. 0 or -ENOMEM."""
    cdef int result = 0
    pthread_mutex_lock(&ring.lock)
    ring.pauses -= 1
    if may_run(ring) and ring.leader == NULL:
        pthread_mutex_lock(&ring.pool.lock)
        result = start_monitor(ring.pool)
        pthread_mutex_unlock(&ring.pool.lock)
        if result == 0 and not hand_on(ring):
            result = -ENOMEM
    pthread_mutex_unlock(&ring.lock)
    return result
