# Threads that serve virtqueues. See workers.pyx for how a queue is handed from one to another.
from libc.stdint cimport uint32_t, uint64_t

from ferryfs.engine.jobs cimport Job
from ferryfs.engine.server cimport Server
from ferryfs.engine.threads cimport pthread_cond_t, pthread_mutex_t, pthread_t
from ferryfs.ring.memory cimport MemoryTable
from ferryfs.ring.queue cimport Queue


cdef enum:
    MAX_RINGS = 65                  # 64 request queues and hiprio
    DEFAULT_BLOCKED = 64            # requests that may wait at the same time, without --thread-pool-size
    STACK_SIZE = 256 * 1024
    LOOKS = 40                      # at an empty ring before sleeping, each with a pause of the processor: some 2 µs
    VAIN_MOST = 7                   # what gave nothing n times in a row is left out 2^n - 1 times
    ANNOUNCE_AT = 4                 # answers that wait for one interrupt at most


cdef struct Ring:
    pthread_mutex_t lock            # guards all below. Pool.lock may be taken inside
    pthread_cond_t calm             # leader or in_flight went to nothing, or a request was taken while somebody waits for that
    Queue queue
    Pool *pool
    Worker *leader                  # who takes requests from the queue now; NULL: nobody. The monitor reads it without the lock
    int index
    int in_flight                   # requests taken and not answered yet, whoever serves them
    int pauses                      # > 0: somebody waits for it to be calm, or changes it
    int finishing                   # > 0: somebody waits until what the guest has offered so far is taken
    int attached                    # queue has its windows
    int placed                      # since the ring was started, where it stands has been taken from its memory
    int started
    int enabled
    int broken
    int unannounced                 # answers pushed since the guest was last told
    uint32_t vain                   # times in a row that looking on at the empty ring gave nothing, up to VAIN_MOST
    uint32_t look_after             # times that it is left out now
    int epoll_fd                    # kick_fd and stop_fd, edge-triggered
    int stop_fd                     # an eventfd that ends the leader's sleep
    int kick_fd
    int call_fd
    int call_may_block              # call_fd is a blocking one
    int err_fd


cdef struct Worker:
    Pool *pool
    Job *job                        # what it serves, or is to load the next request into
    pthread_t thread
    pthread_cond_t wake             # with Pool.lock: ring was set, or the pool closes
    Ring *ring                      # to lead; set by whoever takes it from the spares
    int finishes                    # it serves what was put off, instead of leading
    Ring *answered                  # a ring where it may have left answers unannounced, while it finishes
    Worker *next_spare
    uint64_t sequence               # odd: inside of a request. Written by the worker, read by the monitor
    uint64_t seen                   # the monitor's


cdef struct Pool:
    pthread_mutex_t lock            # guards all below; a leaf
    pthread_cond_t monitor_wake
    Server *server
    MemoryTable *memory
    Ring *rings
    int ring_count
    Worker *spares
    Job *free_jobs
    int job_count                   # beyond one a worker, free or not
    Job *put_off                    # each has its ring as `owner`; to be served by finishers, first come first served
    Job **put_off_end
    int put_off_count               # read without the lock: a hint
    int finishers                   # workers that do so now
    uint64_t finished               # requests that they have answered; read without the lock
    uint64_t finished_seen          # the monitor's
    Worker **workers                # all, to be joined
    int worker_count
    int max_workers
    int closing
    int monitor_sleeps              # read without the lock: a hint
    int monitor_runs
    pthread_t monitor


cdef int pool_init(Pool *pool, Server *server, MemoryTable *memory, Ring *rings, int ring_count, int max_blocked) noexcept nogil
cdef void pool_close(Pool *pool) noexcept nogil

# For rings.pyx and monitor.pyx; under the ring's lock, call_finisher under the pool's.
cdef bint may_run(const Ring *ring) noexcept nogil
cdef void announce(Ring *ring) noexcept nogil
cdef bint hand_on(Ring *ring) noexcept nogil
cdef bint call_finisher(Pool *pool) noexcept nogil
