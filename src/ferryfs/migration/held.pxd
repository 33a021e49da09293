# Somebody else's bytes, which stay where they are.
from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint8_t


cdef class Held:
    cdef Py_buffer buffer
    cdef bint taken
    cdef const uint8_t *at          # NULL when there are none
    cdef Py_ssize_t length
