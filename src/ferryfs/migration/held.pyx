"""Somebody else's bytes, which stay where they are as long as they are held."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t


cdef class Held:
    """Holds the owner of a memoryview's bytes instead of the memoryview. With one that is held, this would happen:

    1. an exception is kept, and its traceback leads to frames that lead to the exception and to the memoryview; 2. the collector
    of cycles clears the memoryview, which gives up its bytes although they are held; 3. its frame is freed, and the memoryview
    with it, which looks for its bytes: CPython ends with a segmentation fault.
    """

    def __cinit__(self, data):
        cdef const uint8_t[:] view = data
        self.taken = False
        PyObject_GetBuffer(data.obj if isinstance(data, memoryview) else data, &self.buffer, PyBUF_SIMPLE)
        self.taken = True
        self.at = &view[0] if view.shape[0] else NULL
        self.length = view.shape[0]

    def __dealloc__(self):
        if self.taken:
            PyBuffer_Release(&self.buffer)
