# What the threads without the GIL have to tell: a small bounded list that the session's thread drains and logs.
from libc.stdint cimport uint32_t

from ferryfs.engine.threads cimport pthread_mutex_t


cdef enum:
    EVENT_BAD_CHAIN = 1         # error: the CHAIN_… code
    EVENT_BAD_REQUEST = 2       # text: the opcode and what was wrong
    EVENT_BROKEN_RING = 3       # the ring is stopped
    EVENT_TROUBLE = 4           # a system call that should not fail did: text says which, error is its errno
    EVENT_NO_THREAD = 5         # a thread was wanted and could not be had
    EVENT_FILE_LIMIT = 6        # the guest gets ENFILE
    EVENT_SLOTS = 64            # different events kept until they are drained; same ones are only counted
    EVENT_TEXT = 96


cdef struct Event:
    int kind
    int queue
    int error
    uint32_t count
    char text[EVENT_TEXT]


cdef struct EventLog:
    pthread_mutex_t lock        # guards all below; a leaf: nothing is locked inside
    int fd                      # eventfd, readable while there is something
    int count
    uint32_t lost               # events that found no slot
    Event slots[EVENT_SLOTS]


cdef int events_init(EventLog *log) except -1
cdef void events_close(EventLog *log) noexcept nogil
cdef void event_post(EventLog *log, int kind, int queue, int error, const char *text) noexcept nogil
cdef list events_drain(EventLog *log)
