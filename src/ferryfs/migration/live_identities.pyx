"""Who each inode of the source's table is, as records of the trailer (``trailer_identities``); the guest is stopped.

The table is walked through once for each record; what it says of an inode goes into columns, and they into the record's bytes.
Both lie in the same memory for each record.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset, strlen

from ferryfs.engine.inodes cimport INODE_INVALID, Inode, inode_handle
from ferryfs.migration.columns cimport put_item
from ferryfs.migration.fid cimport FidBuffer, fid_of
from ferryfs.migration.growing cimport NUMBER_ROOM, Bytes, dropped, make_room, put, write_bytes, write_number, write_signed
from ferryfs.migration.live_encode cimport slots_in_order
from ferryfs.migration.live_slots cimport AT_ODD_PATH, AT_PATH, Slots, slot_inode


cdef enum:
    NO_SHAPE = 255


# What many handles have in common; an index of these stands for it in a column.
cdef struct Shape:
    int place                       # of the mount, in the trailer's list
    int32_t type
    uint32_t size
    bint openable


cdef struct Shapes:
    Shape listed[NO_SHAPE]
    int count


cdef struct Column:
    uint64_t *numbers
    uint64_t least
    uint64_t most


# The columns of one record, with what each holds of one inode.
cdef struct Columns:
    uint32_t count
    Column ids
    Column sizes
    Column mtimes                   # 2**63 more, so that their order is that of unsigned numbers
    Column parents
    Column lengths
    uint8_t *shape_of
    uint8_t *kinds
    Bytes names
    Bytes handles
    Shapes shapes


@cython.final
cdef class IdentityPayloads:
    """Payloads of InodeIdentities records, of at most so many inodes each. Made by ``identity_payloads``."""

    cdef object owner
    cdef Slots slots
    cdef uint32_t *order
    cdef int *places                # of a mount of the table, in the trailer's list; -1: none
    cdef void *memory               # of the columns
    cdef uint32_t count
    cdef uint32_t at
    cdef uint32_t at_once
    cdef bint named
    cdef set handleless
    cdef Columns columns
    cdef Bytes out

    def __cinit__(self):
        self.order = NULL
        self.places = NULL
        self.memory = NULL
        # SAFETY: the structs are plain numbers and pointers, of which zero is "none".
        memset(&self.columns, 0, sizeof(self.columns))
        memset(&self.out, 0, sizeof(self.out))

    def __dealloc__(self):
        free(self.order)
        free(self.places)
        free(self.memory)
        dropped(&self.columns.names)
        dropped(&self.columns.handles)
        dropped(&self.out)

    def __iter__(self):
        return self

    def __next__(self):
        cdef uint32_t last = min(self.count, self.at + self.at_once)
        if self.at == self.count:
            raise StopIteration
        clear(&self.columns)
        if self.handleless:
            while self.at < last and self.columns.shapes.count < NO_SHAPE:
                self._put_one(slot_inode(&self.slots, self.order[self.at]).id not in self.handleless)
        else:
            with nogil:
                while self.at < last and self.columns.shapes.count < NO_SHAPE:
                    self._put_one(True)
        with nogil:
            write_payload(&self.columns, self.named, &self.out)
        return PyBytes_FromStringAndSize(<char *>self.out.data, self.out.length)

    cdef int _put_one(self, bint handle_is_good) except -1 nogil:
        cdef uint32_t slot = self.order[self.at]
        cdef const Inode *inode = slot_inode(&self.slots, slot)
        self.at += 1
        if inode.flags & INODE_INVALID and (inode.handle_size == 0 or inode.ino != 0):
            return 0
        return put_one(&self.slots, slot, &self.columns, self.places[inode.mount] if handle_is_good else -1, self.named)


cdef object identity_payloads(object owner, const Slots *slots, list mounts, bint named, uint32_t at_once, set handleless):
    """The payloads of InodeIdentities records of at most ``at_once`` inodes, one by one. A record ends early where it has no
    room for another shape (a share of many mounts has many): an inode without its handle may be taken for another one.

    ``owner``: of the slots' arrays. ``mounts``: ids in the order of the Mounts record; ``named``: parents and names too;
    ``handleless``: nodeids of inodes whose handles will lead nowhere at the destination.
    """
    cdef IdentityPayloads payloads = IdentityPayloads()
    cdef uint32_t index
    cdef uint64_t *numbers
    payloads.owner = owner
    payloads.slots = slots[0]
    payloads.named = named
    payloads.handleless = handleless
    payloads.order = slots_in_order(slots, &payloads.count, True)
    payloads.at_once = at_once
    payloads.places = <int *>malloc((slots.table.mount_count + 1) * sizeof(int))
    payloads.memory = malloc(min(payloads.count, at_once) * (5 * sizeof(uint64_t) + 2) + 1)
    if payloads.places == NULL or payloads.memory == NULL:
        raise MemoryError
    for index in range(slots.table.mount_count):
        payloads.places[index] = mounts.index(slots.table.mounts[index].id) if slots.table.mounts[index].id in mounts else -1
    # SAFETY: the memory holds five columns of numbers and two of bytes, each of as many items as a record has at most.
    numbers = <uint64_t *>payloads.memory
    at_once = min(payloads.count, at_once)
    payloads.columns.ids.numbers = numbers
    payloads.columns.sizes.numbers = numbers + at_once
    payloads.columns.mtimes.numbers = numbers + 2 * at_once
    payloads.columns.parents.numbers = numbers + 3 * at_once
    payloads.columns.lengths.numbers = numbers + 4 * at_once
    payloads.columns.shape_of = <uint8_t *>(numbers + 5 * at_once)
    payloads.columns.kinds = payloads.columns.shape_of + at_once
    return payloads


# ---- one record --------------------------------------------------------------------------------------------------------------


cdef void clear(Columns *columns) noexcept nogil:
    columns.count = 0
    columns.shapes.count = 0
    columns.names.length = 0
    columns.handles.length = 0
    clear_one(&columns.ids)
    clear_one(&columns.sizes)
    clear_one(&columns.mtimes)
    clear_one(&columns.parents)
    clear_one(&columns.lengths)


cdef inline void clear_one(Column *column) noexcept nogil:
    column.least = <uint64_t>-1
    column.most = 0


cdef inline void put_number(Column *column, uint32_t index, uint64_t number) noexcept nogil:
    # SAFETY: ``index`` is below the count of inodes that a record has at most.
    column.numbers[index] = number
    column.least = min(column.least, number)
    column.most = max(column.most, number)


cdef int put_one(const Slots *slots, uint32_t slot, Columns *columns, int place, bint named) except -1 nogil:
    """``place``: of its mount in the trailer's list; negative: its handle is not to be told."""
    cdef FidBuffer fid
    cdef const Inode *inode = slot_inode(slots, slot)
    cdef uint8_t shape = NO_SHAPE
    cdef uint32_t index = columns.count
    cdef uint64_t parent = 0
    cdef size_t length = 0
    cdef uint32_t size
    if place >= 0 and inode.handle_size > 0:
        shape = shape_for(&columns.shapes, place, inode.handle_type, inode.handle_size, True)
        if shape != NO_SHAPE:
            put(&columns.handles, inode_handle(inode), inode.handle_size)
    elif place >= 0 and inode.fd >= 0:
        # It keeps its fd, as it has no handle that can be opened.
        size = fid_of(inode.fd, &fid)
        if size > 0:
            shape = shape_for(&columns.shapes, place, fid.head.handle_type, size, False)
            if shape != NO_SHAPE:
                put(&columns.handles, fid.bytes, size)
    put_number(&columns.ids, index, inode.id)
    columns.shape_of[index] = shape
    columns.kinds[index] = inode.kind
    put_number(&columns.sizes, index, slots.sizes[slot])
    put_number(&columns.mtimes, index, <uint64_t>slots.mtimes[slot] ^ <uint64_t>1 << 63)
    if named:
        if slots.status[slot] in (AT_PATH, AT_ODD_PATH):
            parent = inode.parent
            length = strlen(inode.name)
            put(&columns.names, inode.name, length)
        put_number(&columns.parents, index, parent)
        put_number(&columns.lengths, index, length)
    columns.count += 1
    return 0


cdef inline uint8_t shape_for(Shapes *shapes, int place, int32_t type, uint32_t size, bint openable) noexcept nogil:
    """The index of a shape, which is listed when it is new; NO_SHAPE when there are too many."""
    cdef int i
    for i in range(shapes.count):
        if (
            shapes.listed[i].size == size and shapes.listed[i].type == type and shapes.listed[i].place == place
            and shapes.listed[i].openable == openable
        ):
            return <uint8_t>i
    if shapes.count == NO_SHAPE:
        return NO_SHAPE
    shapes.listed[shapes.count].place = place
    shapes.listed[shapes.count].type = type
    shapes.listed[shapes.count].size = size
    shapes.listed[shapes.count].openable = openable
    shapes.count += 1
    return <uint8_t>(shapes.count - 1)


cdef int write_payload(const Columns *columns, bint named, Bytes *out) except -1 nogil:
    """What ``InodeIdentities.write`` would write."""
    cdef size_t each = 5 * sizeof(uint64_t) + 2
    cdef uint8_t *at
    cdef int i
    out.length = 0
    make_room(
        out, (4 * columns.shapes.count + 16) * NUMBER_ROOM + each * columns.count + columns.names.length + columns.handles.length
    )
    at = write_number(out.data, columns.shapes.count)
    for i in range(columns.shapes.count):
        at = write_number(at, columns.shapes.listed[i].place)
        at = write_signed(at, columns.shapes.listed[i].type)
        at = write_number(at, columns.shapes.listed[i].size)
        at = write_number(at, columns.shapes.listed[i].openable)
    at = write_number(at, columns.count)
    at = write_column(at, &columns.ids, columns.count)
    at = write_bytes(at, columns.shape_of, columns.count)
    at = write_bytes(at, columns.kinds, columns.count)
    at = write_column(at, &columns.sizes, columns.count)
    at = write_column(at, &columns.mtimes, columns.count)
    named = named and columns.count > 0
    at = write_number(at, named)
    if named:
        at = write_column(at, &columns.parents, columns.count)
        at = write_column(at, &columns.lengths, columns.count)
        at = write_bytes(write_number(at, columns.names.length), columns.names.data, columns.names.length)
    at = write_bytes(write_number(at, columns.handles.length), columns.handles.data, columns.handles.length)
    out.length = at - out.data
    return 0


cdef uint8_t *write_column(uint8_t *at, const Column *column, uint32_t count) noexcept nogil:
    """Width, base, and what each number is more than the base."""
    cdef uint64_t base = column.least if count else 0
    cdef uint64_t beyond = column.most - base if count else 0
    cdef uint32_t i
    cdef int width = 0
    if beyond:
        width = 1
        while width < 8 and beyond >> (8 * width):
            width *= 2
    at[0] = <uint8_t>width
    at = write_number(at + 1, base)
    # A loop for each width: the compiler then knows it.
    if width == 1:
        for i in range(count):
            at[i] = <uint8_t>(column.numbers[i] - base)
    elif width == 2:
        for i in range(count):
            put_item(at + 2 * <size_t>i, column.numbers[i] - base, 2)
    elif width == 4:
        for i in range(count):
            put_item(at + 4 * <size_t>i, column.numbers[i] - base, 4)
    elif width == 8:
        for i in range(count):
            put_item(at + 8 * <size_t>i, column.numbers[i] - base, 8)
    return at + width * <size_t>count
