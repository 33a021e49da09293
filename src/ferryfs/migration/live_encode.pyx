"""The source's inode table as the bytes of a state and the columns of its trailer, straight from the table; the guest is stopped."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcpy, memset, strlen

from array import array

from ferryfs.engine.inodes cimport INODE_INVALID, Inode, find_slot, inode_handle
from ferryfs.migration.fid cimport FidBuffer, fid_of
from ferryfs.migration.live_slots cimport ABSENT, AT_ODD_PATH, AT_PATH, LEFT_OUT, Slots, slot_inode


cdef enum:
    ROOT = 1
    NO_SHAPE = 255


cdef struct Numbered:
    uint64_t id
    uint32_t slot


cdef struct Bytes:
    uint8_t *data
    size_t length
    size_t room


# What many handles have in common; an index of these stands for it in a column.
cdef struct Shape:
    int place                       # of the mount, in the trailer's list
    int32_t type
    uint32_t size
    bint openable


cdef struct Shapes:
    Shape listed[NO_SHAPE]
    int count


# The columns of one record, with what each holds of one inode.
cdef struct Columns:
    Bytes ids
    Bytes shape_of
    Bytes kinds
    Bytes sizes
    Bytes mtimes
    Bytes parents
    Bytes lengths
    Bytes names
    Bytes handles
    Shapes shapes


cdef int by_id(const void *left, const void *right) noexcept nogil:
    cdef uint64_t a = (<const Numbered *>left).id
    cdef uint64_t b = (<const Numbered *>right).id
    return -1 if a < b else 1 if a > b else 0


# ---- bytes -----------------------------------------------------------------------------------------------------------------


cdef int grow(Bytes *into, size_t length) except -1 nogil:
    cdef size_t room = 2 * (into.length + length) + 4096
    cdef void *grown = realloc(into.data, room)
    if grown == NULL:
        with gil:
            raise MemoryError
    into.data = <uint8_t *>grown
    into.room = room
    return 0


cdef inline int put(Bytes *into, const void *data, size_t length) except -1 nogil:
    if into.length + length > into.room:
        grow(into, length)
    # SAFETY: length more bytes fit, by the lines above.
    memcpy(into.data + into.length, data, length)
    into.length += length
    return 0


cdef int put_number(Bytes *into, uint64_t value, bint padded=False) except -1 nogil:
    cdef uint8_t digits[11]
    cdef int count = 0
    while value > 0x7f:
        digits[count] = <uint8_t>(value & 0x7f) | 0x80
        value >>= 7
        count += 1
    digits[count] = <uint8_t>value
    count += 1
    if padded:
        digits[count - 1] |= 0x80
        digits[count] = 0
        count += 1
    return put(into, digits, count)


cdef int put_handle(Bytes *into, uint64_t mount, int32_t kind, const uint8_t *handle, uint32_t size) except -1 nogil:
    put_number(into, mount)
    put_number(into, (<uint32_t>kind << 1) ^ <uint32_t>(kind >> 31))
    put_number(into, size)
    return put(into, handle, size)


cdef bytes taken(Bytes *from_):
    """The bytes, which are given back."""
    try:
        return PyBytes_FromStringAndSize(<char *>from_.data, from_.length)
    finally:
        dropped(from_)


cdef object taken_numbers(Bytes *from_, str typecode):
    cdef const uint8_t[::1] view
    found = array(typecode)
    try:
        if from_.length:
            view = <const uint8_t[:from_.length]>from_.data
            found.frombytes(view)
        return found
    finally:
        view = None
        dropped(from_)


cdef void dropped(Bytes *one) noexcept nogil:
    free(one.data)
    one.data = NULL
    one.length = 0
    one.room = 0


# ---- the state -------------------------------------------------------------------------------------------------------------


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


cdef object encode_slots(
    const Slots *slots, dict others, bint by_handle, set handle_mounts, bint with_handles, bint root_handle, bint trailed
):
    """The ``inodes`` of a state: count and records.

    ``others``: location of those not found in a parent, already encoded. ``by_handle``: FileHandle locations, on the mounts
    of ``handle_mounts``. ``with_handles``: handles for comparison, ``root_handle``: at least the root's.
    """
    cdef Bytes out
    cdef uint32_t count = 0
    cdef uint32_t index
    cdef Inode *inode
    cdef uint64_t mount
    cdef bint handled
    cdef bint has_others = len(others) > 0
    cdef uint8_t *handled_mounts
    cdef uint32_t *order = slots_in_order(slots, &count, False)
    out.data = NULL
    out.length = 0
    out.room = 0
    handled_mounts = <uint8_t *>malloc(slots.table.mount_count + 1)
    try:
        if handled_mounts == NULL:
            raise MemoryError
        for index in range(slots.table.mount_count):
            handled_mounts[index] = by_handle and slots.table.mounts[index].id in handle_mounts
        if by_handle:
            # Only Path locations hold references; those that go by handle are not counted.
            uncount(slots, handled_mounts)
        put_number(&out, count, trailed)
        for index in range(count):
            inode = slot_inode(slots, order[index])
            mount = slots.table.mounts[inode.mount].id
            handled = handled_mounts[inode.mount] and inode.handle_size > 0 and not inode.flags & INODE_INVALID
            put_number(&out, inode.id)
            put_number(&out, inode.nlookup + slots.children[order[index]])
            if inode.id == ROOT:
                put_number(&out, 0)
            elif has_others and inode.id in others:
                location = <bytes>others[inode.id]
                put(&out, <const char *>location, len(location))
            elif handled:
                put_number(&out, 4)
                put_handle(&out, mount, inode.handle_type, inode_handle(inode), inode.handle_size)
            elif slots.status[order[index]] == AT_PATH:
                put_number(&out, 1)
                put_number(&out, inode.parent)
                put_number(&out, strlen(inode.name))
                put(&out, inode.name, strlen(inode.name))
            else:
                put_number(&out, 2)
            if inode.handle_size > 0 and not inode.flags & INODE_INVALID and (
                (with_handles and not handled) or (root_handle and inode.id == ROOT)
            ):
                put_number(&out, 1)
                put_handle(&out, mount, inode.handle_type, inode_handle(inode), inode.handle_size)
            else:
                put_number(&out, 0)
        return taken(&out)
    finally:
        free(out.data)
        free(order)
        free(handled_mounts)


cdef void uncount(const Slots *slots, const uint8_t *handled_mounts) noexcept nogil:
    cdef uint32_t slot
    cdef Inode *inode
    for slot in range(slots.count):
        inode = slot_inode(slots, slot)
        if slots.status[slot] == AT_PATH and inode.handle_size > 0 and handled_mounts[inode.mount]:
            slots.children[find_slot(slots.table, inode.parent)] -= 1


# ---- the trailer -----------------------------------------------------------------------------------------------------------


cdef list identity_columns(const Slots *slots, list mounts, bint named, uint32_t at_once, set handleless):
    """Columns for InodeIdentities records of at most ``at_once`` inodes: tuples (shapes, ids, shape_of, kinds, sizes, mtimes,
    parents, name_lengths, names, handles). ``mounts``: ids in the order of the Mounts record; ``named``: parents and names too;
    ``handleless``: nodeids of inodes whose handles will lead nowhere at the destination.
    """
    cdef uint32_t count = 0
    cdef uint32_t first = 0
    cdef uint32_t index
    cdef uint32_t done = 0
    cdef uint32_t *order = slots_in_order(slots, &count, True)
    cdef int *places = <int *>malloc((slots.table.mount_count + 1) * sizeof(int))
    records = []
    try:
        if places == NULL:
            raise MemoryError
        for index in range(slots.table.mount_count):
            places[index] = mounts.index(slots.table.mounts[index].id) if slots.table.mounts[index].id in mounts else -1
        while first < count:
            records.append(columns_of(slots, order + first, min(count - first, at_once), places, named, handleless, &done))
            first += done
    finally:
        free(order)
        free(places)
    return records


cdef tuple columns_of(
    const Slots *slots, const uint32_t *order, uint32_t count, const int *places, bint named, set handleless, uint32_t *done
):
    """One record's columns, and of how many of the inodes: not of all where there is no room for another shape (a share of many
    mounts has many), because an inode without its handle may be taken for another one.
    """
    cdef Columns columns
    cdef Inode *inode
    cdef uint32_t index
    cdef int shape
    cdef bint has_handle
    cdef bint some_handleless = handleless is not None and len(handleless) > 0
    clear(&columns)
    done[0] = 0
    try:
        for index in range(count):
            if columns.shapes.count == NO_SHAPE:
                break
            done[0] += 1
            inode = slot_inode(slots, order[index])
            if inode.flags & INODE_INVALID and (inode.handle_size == 0 or inode.ino != 0):
                continue
            has_handle = places[inode.mount] >= 0 and not (some_handleless and inode.id in handleless)
            put_one(slots, order[index], &columns, places[inode.mount] if has_handle else -1, named)
        shapes = [
            (columns.shapes.listed[shape].place, columns.shapes.listed[shape].type, columns.shapes.listed[shape].size,
             bool(columns.shapes.listed[shape].openable))
            for shape in range(columns.shapes.count)
        ]
        return (
            shapes, taken_numbers(&columns.ids, "Q"), taken(&columns.shape_of), taken(&columns.kinds),
            taken_numbers(&columns.sizes, "Q"), taken_numbers(&columns.mtimes, "q"), taken_numbers(&columns.parents, "Q"),
            taken_numbers(&columns.lengths, "Q"), taken(&columns.names), taken(&columns.handles),
        )
    finally:
        drop_all(&columns)


cdef void clear(Columns *columns) noexcept nogil:
    # SAFETY: the struct is plain numbers and pointers, of which zero is "none".
    memset(columns, 0, sizeof(Columns))


cdef void drop_all(Columns *columns) noexcept nogil:
    dropped(&columns.ids)
    dropped(&columns.shape_of)
    dropped(&columns.kinds)
    dropped(&columns.sizes)
    dropped(&columns.mtimes)
    dropped(&columns.parents)
    dropped(&columns.lengths)
    dropped(&columns.names)
    dropped(&columns.handles)


cdef int put_one(const Slots *slots, uint32_t slot, Columns *columns, int place, bint named) except -1 nogil:
    """``place``: of its mount in the trailer's list; negative: its handle is not to be told."""
    cdef FidBuffer fid
    cdef Inode *inode = slot_inode(slots, slot)
    cdef uint8_t shape = NO_SHAPE
    cdef uint64_t length
    cdef uint64_t none = 0
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
    put(&columns.ids, &inode.id, 8)
    put(&columns.shape_of, &shape, 1)
    put(&columns.kinds, &inode.kind, 1)
    put(&columns.sizes, &slots.sizes[slot], 8)
    put(&columns.mtimes, &slots.mtimes[slot], 8)
    if named:
        if slots.status[slot] in (AT_PATH, AT_ODD_PATH):
            length = strlen(inode.name)
            put(&columns.parents, &inode.parent, 8)
            put(&columns.lengths, &length, 8)
            put(&columns.names, inode.name, length)
        else:
            put(&columns.parents, &none, 8)
            put(&columns.lengths, &none, 8)
    return 0


cdef uint8_t shape_for(Shapes *shapes, int place, int32_t type, uint32_t size, bint openable) noexcept nogil:
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
