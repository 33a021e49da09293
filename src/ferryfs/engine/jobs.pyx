"""Memory for requests under way."""

from libc.stdlib cimport calloc, free, malloc

from ferryfs.engine.server cimport MAX_ARGS, MAX_IOVECS, SCRATCH
from ferryfs.ring.chain cimport CHAIN_OK, chain_free, chain_init, iovec


cdef Job *make_job(Server *server, MayBlock may_block, MayPutOff may_put_off) noexcept nogil:
    """Room for one request; NULL when there is none to be had."""
    cdef Job *job = <Job *>calloc(1, sizeof(Job))
    if job == NULL:
        return NULL
    job.request.server = server
    job.request.chain = &job.chain
    job.request.may_block = may_block
    job.request.may_put_off = may_put_off
    # One byte more than MAX_ARGS: the NUL behind the arguments.
    job.request.args = <char *>malloc(MAX_ARGS + 1)
    job.request.scratch = <unsigned char *>malloc(SCRATCH)
    job.request.iovecs = <iovec *>malloc(MAX_IOVECS * sizeof(iovec))
    if (
        job.request.args == NULL or job.request.scratch == NULL or job.request.iovecs == NULL
        or chain_init(&job.chain) != CHAIN_OK
    ):
        free_job(job)
        return NULL
    return job


cdef void free_job(Job *job) noexcept nogil:
    if job == NULL:
        return
    chain_free(&job.chain)
    free(job.request.args)
    free(job.request.scratch)
    free(job.request.iovecs)
    free(job)
