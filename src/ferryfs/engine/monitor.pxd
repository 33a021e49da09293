# Hands a ring on when its leader waits.
from ferryfs.engine.workers cimport Pool


# Under Pool.lock; nothing when it runs already. 0 or -ENOMEM.
cdef int start_monitor(Pool *pool) noexcept nogil
