# A request under way: what it is loaded into and answered from. It goes from one worker to another when it is put off.
from ferryfs.engine.server cimport Request, Server
from ferryfs.ring.chain cimport Chain


ctypedef void (*MayBlock)(Request *) noexcept nogil
ctypedef bint (*MayPutOff)(Request *) noexcept nogil


cdef struct Job:
    Chain chain
    Request request
    void *owner                 # where its answer belongs, when it is put off
    Job *next


cdef Job *make_job(Server *server, MayBlock may_block, MayPutOff may_put_off) noexcept nogil
cdef void free_job(Job *job) noexcept nogil
