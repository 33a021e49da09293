"""The bounded list of events between the threads without the GIL and the session's thread.

A hostile guest can cause any number of events: same ones (kind, queue, error) are counted in one slot, and what finds no slot is
only counted, so neither memory nor the log can be flooded.
"""

from libc.errno cimport errno
from libc.stdint cimport uint64_t
from libc.string cimport memset, strncpy

import os

from ferryfs.engine.sys cimport EFD_CLOEXEC, EFD_NONBLOCK, close, eventfd, read, write
from ferryfs.engine.threads cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)


cdef int events_init(EventLog *log) except -1:
    memset(log, 0, sizeof(EventLog))
    pthread_mutex_init(&log.lock, NULL)
    log.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if log.fd < 0:
        raise OSError(errno, os.strerror(errno), "eventfd")
    return 0


cdef void events_close(EventLog *log) noexcept nogil:
    if log.fd >= 0:
        close(log.fd)
        log.fd = -1
        pthread_mutex_destroy(&log.lock)


cdef void event_post(EventLog *log, int kind, int queue, int error, const char *text) noexcept nogil:
    """Notes an event. `text` is cut to EVENT_TEXT - 1 bytes; the first text of same events is kept."""
    cdef uint64_t one = 1
    cdef int i
    cdef bint tell = False
    pthread_mutex_lock(&log.lock)
    for i in range(log.count):
        if log.slots[i].kind == kind and log.slots[i].queue == queue and log.slots[i].error == error:
            log.slots[i].count += 1
            break
    else:
        if log.count < EVENT_SLOTS:
            log.slots[log.count].kind = kind
            log.slots[log.count].queue = queue
            log.slots[log.count].error = error
            log.slots[log.count].count = 1
            strncpy(log.slots[log.count].text, text, EVENT_TEXT - 1)
            log.slots[log.count].text[EVENT_TEXT - 1] = 0
            tell = log.count == 0
            log.count += 1
        else:
            log.lost += 1
    pthread_mutex_unlock(&log.lock)
    if tell:
        write(log.fd, &one, 8)


cdef list events_drain(EventLog *log):
    """Takes all: [(kind, queue, error, count, text)]."""
    cdef EventLog copy
    cdef uint64_t counter = 0
    with nogil:
        pthread_mutex_lock(&log.lock)
        read(log.fd, &counter, 8)
        copy = log[0]
        log.count = 0
        log.lost = 0
        pthread_mutex_unlock(&log.lock)
    drained = [
        (copy.slots[i].kind, copy.slots[i].queue, copy.slots[i].error, copy.slots[i].count,
         (<bytes>copy.slots[i].text).decode("utf-8", "backslashreplace"))
        for i in range(copy.count)
    ]
    if copy.lost:
        drained.append((EVENT_TROUBLE, -1, 0, copy.lost, "further events, not kept"))
    return drained
