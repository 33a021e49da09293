"""The source's inode table and open files as the bytes of a state, straight from the tables; the guest is stopped.

The state is made piece by piece, in memory that stays in the processor's cache: fresh memory costs more than all that is written
to it, as the kernel clears each page of it when it is touched first.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memset, strlen

from ferryfs.engine.handles cimport HANDLE_CHUNK, HANDLE_RELEASED, HANDLE_USED, Handle, HandleTable
from ferryfs.engine.inodes cimport INODE_INVALID, Inode, find_slot, inode_handle
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock
from ferryfs.migration.growing cimport (
    NUMBER_ROOM, Bytes, dropped, make_room, put, write_bytes, write_number, write_signed,
)
from ferryfs.migration.live_slots cimport ABSENT, AT_PATH, LEFT_OUT, Slots, slot_inode


cdef enum:
    ROOT = 1
    PIECE_BYTES = 1 << 16           # as transfer.WRITE_BYTES: such a piece is written as it is
    RECORD_ROOM = 512               # of an inode's record without its name: numbers and two file handles


cdef struct Numbered:
    uint64_t id
    uint32_t slot


cdef struct OpenFile:
    uint64_t id
    uint64_t inode
    int flags


cdef int by_id(const void *left, const void *right) noexcept nogil:
    cdef uint64_t a = (<const Numbered *>left).id
    cdef uint64_t b = (<const Numbered *>right).id
    return -1 if a < b else 1 if a > b else 0


cdef int by_fh(const void *left, const void *right) noexcept nogil:
    cdef uint64_t a = (<const OpenFile *>left).id
    cdef uint64_t b = (<const OpenFile *>right).id
    return -1 if a < b else 1 if a > b else 0


# ---- the inodes ------------------------------------------------------------------------------------------------------------


cdef uint32_t *slots_in_order(const Slots *slots, uint32_t *count, bint all) except NULL:
    """The slots that get a record, by nodeid; with ``all`` also those that travel in the trailer alone. To be freed."""
    cdef uint32_t slot
    cdef uint32_t filled = 0
    cdef uint64_t last = 0
    cdef bint sorted_ = True
    cdef uint32_t *order = <uint32_t *>malloc((slots.count + 1) * sizeof(uint32_t))
    if order == NULL:
        raise MemoryError
    with nogil:
        for slot in range(slots.count):
            if slots.status[slot] not in (ABSENT, LEFT_OUT) or (all and slots.status[slot] == LEFT_OUT):
                sorted_ = sorted_ and slot_inode(slots, slot).id > last
                last = slot_inode(slots, slot).id
                order[filled] = slot
                filled += 1
    count[0] = filled
    if not sorted_:
        try:
            sort(slots, order, filled)
        except MemoryError:
            free(order)
            raise
    return order


cdef int sort(const Slots *slots, uint32_t *order, uint32_t count) except -1:
    """Slots are used again, so a table that lives long is not in the order of its numbers."""
    cdef uint32_t i
    cdef Numbered *numbered = <Numbered *>malloc(count * sizeof(Numbered))
    if numbered == NULL:
        raise MemoryError
    with nogil:
        for i in range(count):
            numbered[i].id = slot_inode(slots, order[i]).id
            numbered[i].slot = order[i]
        qsort(numbered, count, sizeof(Numbered), &by_id)
        for i in range(count):
            order[i] = numbered[i].slot
    free(numbered)
    return 0


@cython.final
cdef class InodePieces:
    """The ``inodes`` of a state, count and records, in pieces. Made by ``encode_slots``."""

    def __cinit__(self):
        self.order = NULL
        self.handled_mounts = NULL
        # SAFETY: the struct is plain numbers and pointers, of which zero is "none".
        memset(&self.out, 0, sizeof(self.out))

    def __dealloc__(self):
        free(self.order)
        free(self.handled_mounts)
        dropped(&self.out)

    def __iter__(self):
        return self

    def __next__(self):
        if self.at == self.count and self.out.length == 0:
            raise StopIteration
        if self.others:
            self._fill_with_others()
        else:
            with nogil:
                while self.at < self.count and self.out.length < PIECE_BYTES:
                    self._put_one(self.order[self.at], NULL, 0)
                    self.at += 1
        piece = PyBytes_FromStringAndSize(<char *>self.out.data, self.out.length)
        self.out.length = 0
        return piece

    cdef int _fill_with_others(self) except -1:
        cdef uint32_t slot
        while self.at < self.count and self.out.length < PIECE_BYTES:
            slot = self.order[self.at]
            location = self.others.get(slot_inode(&self.slots, slot).id)
            if location is None:
                self._put_one(slot, NULL, 0)
            else:
                self._put_one(slot, <const char *><bytes>location, len(<bytes>location))
            self.at += 1
        return 0

    cdef int _put_one(self, uint32_t slot, const char *location, size_t location_length) except -1 nogil:
        """One record. ``location``: of those not found in a parent, already encoded; else NULL."""
        cdef const Inode *inode = slot_inode(&self.slots, slot)
        cdef bint handled = self.handled_mounts[inode.mount] and inode.handle_size > 0 and not inode.flags & INODE_INVALID
        cdef bint named = location == NULL and not handled and self.slots.status[slot] == AT_PATH and inode.id != ROOT
        cdef size_t name_length = strlen(inode.name) if named else 0
        cdef uint8_t *at
        make_room(&self.out, RECORD_ROOM + name_length + location_length)
        at = self.out.data + self.out.length
        at = write_number(at, inode.id)
        at = write_number(at, inode.nlookup + self.slots.children[slot])
        if inode.id == ROOT:
            at = write_number(at, 0)
        elif location != NULL:
            at = write_bytes(at, location, location_length)
        elif handled:
            at = write_handle(write_number(at, 4), &self.slots, inode)
        elif named:
            at = write_number(write_number(at, 1), inode.parent)
            at = write_bytes(write_number(at, name_length), inode.name, name_length)
        else:
            at = write_number(at, 2)
        if inode.handle_size > 0 and not inode.flags & INODE_INVALID and (
            (self.with_handles and not handled) or (self.root_handle and inode.id == ROOT)
        ):
            at = write_handle(write_number(at, 1), &self.slots, inode)
        else:
            at = write_number(at, 0)
        self.out.length = at - self.out.data
        return 0


cdef inline uint8_t *write_handle(uint8_t *at, const Slots *slots, const Inode *inode) noexcept nogil:
    at = write_number(at, slots.table.mounts[inode.mount].id)
    at = write_signed(at, inode.handle_type)
    return write_bytes(write_number(at, inode.handle_size), inode_handle(inode), inode.handle_size)


cdef InodePieces encode_slots(
    object owner, const Slots *slots, dict others, bint by_handle, set handle_mounts, bint with_handles, bint root_handle,
    bint trailed
):
    """The ``inodes`` of a state in pieces: count and records.

    ``owner``: of the slots' arrays. ``others``: location of those not found in a parent, already encoded. ``by_handle``:
    FileHandle locations, on the mounts of ``handle_mounts``. ``with_handles``: handles for comparison, ``root_handle``: at least
    the root's. ``trailed``: a trailer follows.
    """
    cdef InodePieces pieces = InodePieces()
    cdef uint32_t index
    cdef uint8_t *at
    pieces.owner = owner
    pieces.slots = slots[0]
    pieces.others = others
    pieces.with_handles = with_handles
    pieces.root_handle = root_handle
    pieces.order = slots_in_order(slots, &pieces.count, False)
    pieces.handled_mounts = <uint8_t *>malloc(slots.table.mount_count + 1)
    if pieces.handled_mounts == NULL:
        raise MemoryError
    for index in range(slots.table.mount_count):
        pieces.handled_mounts[index] = by_handle and slots.table.mounts[index].id in handle_mounts
    if by_handle:
        # Only Path locations hold references; those that go by handle are not counted.
        uncount(slots, pieces.handled_mounts)
    make_room(&pieces.out, PIECE_BYTES + RECORD_ROOM)
    at = write_number(pieces.out.data, pieces.count)
    if trailed:
        # Another spelling of the same number promises it.
        at[-1] |= 0x80
        at[0] = 0
        at += 1
    pieces.out.length = at - pieces.out.data
    return pieces


cdef void uncount(const Slots *slots, const uint8_t *handled_mounts) noexcept nogil:
    cdef uint32_t slot
    cdef Inode *inode
    for slot in range(slots.count):
        inode = slot_inode(slots, slot)
        if slots.status[slot] == AT_PATH and inode.handle_size > 0 and handled_mounts[inode.mount]:
            slots.children[find_slot(slots.table, inode.parent)] -= 1


# ---- the open files ----------------------------------------------------------------------------------------------------------


cdef object encode_files(HandleTable *handles, int without):
    """The ``handles`` of a state, by fh: count and records; of the flags, those of ``without`` are left out."""
    cdef Bytes found
    cdef Bytes out
    cdef OpenFile one
    cdef OpenFile *files
    cdef Handle *handle
    cdef uint32_t slot
    cdef size_t count
    cdef size_t i
    cdef uint8_t *at
    # SAFETY: the struct is plain numbers and pointers, of which zero is "none".
    memset(&found, 0, sizeof(found))
    memset(&out, 0, sizeof(out))
    try:
        pthread_mutex_lock(&handles.lock)
        try:
            for slot in range(handles.slots):
                handle = &handles.chunks[slot // HANDLE_CHUNK][slot % HANDLE_CHUNK]
                if handle.state & HANDLE_USED and not handle.state & HANDLE_RELEASED:
                    one.id = handle.id
                    one.inode = handle.inode.id
                    one.flags = handle.flags & ~without
                    put(&found, &one, sizeof(one))
        finally:
            pthread_mutex_unlock(&handles.lock)
        count = found.length // sizeof(OpenFile)
        files = <OpenFile *>found.data
        if count:
            qsort(files, count, sizeof(OpenFile), &by_fh)
        make_room(&out, NUMBER_ROOM * (4 * count + 1))
        at = write_number(out.data, count)
        for i in range(count):
            at = write_number(write_number(at, files[i].id), files[i].inode)
            # SourceOpenInode, the only kind there is.
            at = write_signed(write_number(at, 0), files[i].flags)
        return PyBytes_FromStringAndSize(<char *>out.data, at - out.data)
    finally:
        dropped(&found)
        dropped(&out)
