# The inodes of a state in the stream's order, without an object each.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ferryfs.engine.index cimport Index
from ferryfs.migration.cursor cimport Cursor
from ferryfs.migration.held cimport Held


# The enum of the stream.
cdef enum:
    ROOT_NODE = 0
    PATH = 1
    INVALID = 2
    FULL_PATH = 3
    FILE_HANDLE = 4

# How far a record has come.
cdef enum:
    WAITING = 0
    RESTORED = 1
    LEFT = 2                        # for the slow road


# Pointers lead into the stream's bytes, which Records.held holds, or into a column that Records.kept holds.
cdef struct Record:
    uint64_t id
    uint64_t refcount
    uint64_t parent                 # nodeid, of a PATH or of a FILE_HANDLE of which the trailer says where it lies
    const uint8_t *name             # in `parent`; NULL: unknown
    const uint8_t *located          # of a FILE_HANDLE: its handle; of a FULL_PATH: its path
    const uint8_t *compare          # of --migration-verify-handles: the handle to compare, else NULL
    const uint8_t *expected         # the handle that the trailer expects, else NULL
    uint64_t size                   # the size and the time of change that the trailer expects
    int64_t mtime_ns
    uint64_t seen_ino               # its inode number, where it needs no look (``entries``); else 0
    int64_t changed_ns              # of a directory: nothing in it has changed if it has this change time; 0: nothing is known
    uint32_t parent_record          # INDEX_NONE: none
    uint32_t children
    int32_t expected_type
    uint16_t name_length
    uint8_t expected_size
    uint8_t expected_fid            # that handle is for comparing only
    uint8_t expected_own            # and is of a file on the share's own mount
    uint8_t sized                   # a block clone has that handle too: the size has to be the source's as well
    uint8_t location
    uint8_t progress
    uint8_t told                    # the trailer expects something of it: a kind at least
    uint8_t kind
    uint8_t aged                    # a file with another time of change here, where nothing proves that it is the same
    uint8_t now                     # can't wait for its first use (deferred)


cdef class Records:
    cdef Record *records
    cdef uint32_t *order            # record numbers of the waiting, parents before children, the children of one parent in a row
    cdef uint64_t ordered           # how many
    cdef uint32_t *places           # nodeid -> record number + 1, where numbers are dense enough; else by_id has them
    cdef Index by_id
    cdef Held held
    cdef object kept
    cdef bint clone                 # handles prove nothing, but one that differs, with another time of change, is another file's
    cdef list levels                # [(first, last)] in `order`
    cdef uint64_t count
    cdef readonly uint64_t end      # offset behind the inodes
    cdef readonly uint64_t max_id
    cdef readonly bint padded       # the count promises a trailer
    cdef readonly bint by_handle    # some are located by handle
    cdef readonly int version

    cdef uint32_t find(self, uint64_t id) noexcept nogil
    cdef Cursor behind(self, const uint8_t *at) noexcept nogil
    cdef int _parse(self) except -2
    cdef int _parse_one(self, Cursor *cursor, Record *record) noexcept nogil
    cdef int _number(self) except -2
    cdef int _check_tree(self) except -2
    cdef int _link(self) noexcept nogil
    cdef int arrange(self) except -1
    cdef int _levels(self, const uint32_t *starts, const uint32_t *below) except -1
    cdef object _handle(self, const uint8_t *at)
    cdef object _path(self, const uint8_t *at)
