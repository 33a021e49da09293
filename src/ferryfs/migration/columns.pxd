# What compiled code has to know of the columns' values.
from libc.stdint cimport uint64_t


cdef extern from *:
    """
    #define FERRY_NOT_MEASURED UINT64_MAX
    """
    # The size of an inode that was not looked at, because its handle tells it from others (trailer_identities.NOT_MEASURED).
    const uint64_t NOT_MEASURED "FERRY_NOT_MEASURED"
