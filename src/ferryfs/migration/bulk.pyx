"""The inodes of a state without an object each: parsed, checked and put in order straight from the stream's bytes.

This is the fast road of a load, for what is in order; it judges nothing. A stream that it can't vouch for is left to
``codec`` and ``state.validate``, which say what is wrong; an inode that ``refill`` can't restore at once, or that is not the
source's, is left to ``restore``, which looks for it and says what became of it. So there is one place for each sentence, and none
is here.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from ferryfs.engine.index cimport INDEX_NONE, hash_u64, index_add, index_free, index_next
from ferryfs.engine.pages cimport give_pages, take_pages
from ferryfs.migration.columns cimport View, view_item, view_of
from ferryfs.migration.cursor cimport NAME_MAX_BYTES, Cursor, ToldHandle, read_handle, read_name, read_number, read_path
from ferryfs.migration.held cimport Held

from array import array

from ferryfs.migration.state import ByHandle, FileHandle, FullPath, Handle, Inode as InodeRecord, Invalid, Path, RootNode


cdef enum:
    ROOT = 1
    LEAST_BYTES = 4                 # of an inode's record
    NO_SHAPE = 255
    DENSE = 4                       # numbers up to so many times the count are looked up in an array


# Cleared by the collector of cycles, the stream's bytes would go before what leads into them.
@cython.no_gc_clear
cdef class Records:
    """The inodes of one state, in the stream's order: a sequence of ``state.Inode``, made when they are asked for."""

    def __cinit__(self):
        self.records = NULL
        self.order = NULL
        self.places = NULL
        memset(&self.by_id, 0, sizeof(self.by_id))
        self.kept = []
        self.levels = []

    def __dealloc__(self):
        give_pages(self.records, (self.count + 1) * sizeof(Record))
        free(self.order)
        free(self.places)
        index_free(&self.by_id)

    def __len__(self):
        return self.count

    def __contains__(self, uint64_t id):
        return self.find(id) != INDEX_NONE

    def __iter__(self):
        for index in range(self.count):
            yield self[index]

    def __getitem__(self, uint64_t index):
        cdef Record *record
        if index >= self.count:
            raise IndexError(index)
        record = &self.records[index]
        if record.location == ROOT_NODE:
            location = RootNode()
        elif record.location == PATH:
            location = Path(record.parent, record.name[:record.name_length].decode())
        elif record.location == INVALID:
            location = Invalid()
        elif record.location == FULL_PATH:
            location = FullPath(self._path(record.located))
        else:
            location = ByHandle(self._handle(record.located))
        return InodeRecord(record.id, record.refcount, location, self._handle(record.compare) if record.compare != NULL else None)

    def get(self, uint64_t id):
        """The inode of that number; None when there is none."""
        cdef uint32_t found = self.find(id)
        return None if found == INDEX_NONE else self[found]

    def left(self):
        """Numbers (in the sequence) of the records that the fast road has not restored, without the root's."""
        cdef uint64_t i
        found = []
        with nogil:
            for i in range(self.count):
                if self.records[i].progress != RESTORED and self.records[i].id != ROOT:
                    with gil:
                        found.append(i)
        return found

    def pinned(self):
        """Nodeids of the inodes that ``refill`` restored and that the guest holds no lookup on: each is pinned once. As array("Q")."""
        cdef uint64_t i
        cdef Record *record
        found = array("Q")
        for i in range(self.ordered):
            record = &self.records[self.order[i]]
            if record.progress == RESTORED and record.refcount == record.children:
                found.append(record.id)
        return found

    def aged(self):
        """Numbers (in the sequence) of restored files whose time of change is another one than at the source, in a copy."""
        cdef uint64_t i
        found = []
        for i in range(self.ordered):
            if self.records[self.order[i]].progress == RESTORED and self.records[self.order[i]].aged:
                found.append(self.order[i])
        return found

    def children(self, uint64_t index):
        """How many inodes name this one as their parent."""
        return self.records[index].children

    def leave(self, uint64_t id):
        """Keeps an inode from the fast road: something else stands for it."""
        cdef uint32_t found = self.find(id)
        if found != INDEX_NONE:
            self.records[found].progress = LEFT

    cdef object _handle(self, const uint8_t *at):
        cdef ToldHandle told
        cdef Cursor cursor = self.behind(at)
        if read_handle(&cursor, &told) < 0:
            raise AssertionError("a handle that was read once can't be read again")
        return FileHandle(told.mount, told.type, told.bytes[:told.size])

    cdef object _path(self, const uint8_t *at):
        cdef const uint8_t *path = NULL
        cdef uint64_t length = 0
        cdef Cursor cursor = self.behind(at)
        if read_path(&cursor, &path, &length) < 0:
            raise AssertionError("a path that was read once can't be read again")
        return path[:length].decode()

    cdef Cursor behind(self, const uint8_t *at) noexcept nogil:
        """A cursor that stands at ``at`` in the stream."""
        cdef Cursor cursor
        cursor.data = self.held.at
        cursor.length = self.held.length
        cursor.at = at - cursor.data
        return cursor

    cdef uint32_t find(self, uint64_t id) noexcept nogil:
        """The number of the record of an inode, or INDEX_NONE."""
        cdef uint32_t hash
        cdef uint32_t cursor = INDEX_NONE
        cdef uint32_t found
        if self.places != NULL:
            return self.places[id] - 1 if id <= self.max_id else INDEX_NONE
        hash = hash_u64(id)
        while True:
            found = index_next(&self.by_id, hash, &cursor)
            if found == INDEX_NONE or self.records[found].id == id:
                return found

    # ---- reading ----------------------------------------------------------------------------------------------------------

    cdef int _parse(self) except -2:
        """0, or -1: not for this road."""
        cdef Cursor cursor
        cdef uint64_t version = 0
        cdef uint64_t i
        cdef uint64_t before
        cdef int result = 0
        cursor.data = self.held.at
        cursor.length = self.held.length
        cursor.at = 0
        if read_number(&cursor, &version) < 0 or version > 1:
            return -1
        self.version = <int>version
        before = cursor.at
        if read_number(&cursor, &self.count) < 0 or self.count > (cursor.length - cursor.at) // LEAST_BYTES:
            return -1
        self.padded = cursor.at - before > 1 and cursor.data[cursor.at - 1] == 0
        if self.count > 0x7fffffff:
            return -1
        self.records = <Record *>take_pages((self.count + 1) * sizeof(Record))
        if self.records == NULL:
            raise MemoryError
        with nogil:
            for i in range(self.count):
                result = self._parse_one(&cursor, &self.records[i])
                if result != 0:
                    break
        if result != 0:
            return -1
        self.end = cursor.at
        return 0

    cdef int _parse_one(self, Cursor *cursor, Record *record) noexcept nogil:
        cdef uint64_t location = 0
        cdef ToldHandle told
        cdef const uint8_t *path = NULL
        cdef uint64_t path_length = 0
        cdef int result = 0
        if read_number(cursor, &record.id) < 0 or read_number(cursor, &record.refcount) < 0 or read_number(cursor, &location) < 0:
            return -1
        if record.id == 0 or (location == ROOT_NODE) != (record.id == ROOT):
            return -1
        record.location = <uint8_t>location
        record.parent_record = INDEX_NONE
        if location == PATH:
            if read_number(cursor, &record.parent) < 0:
                return -1
            result = read_name(cursor, &record.name, &record.name_length)
        elif location == FULL_PATH:
            record.located = cursor.data + cursor.at
            result = read_path(cursor, &path, &path_length)
        elif location == FILE_HANDLE:
            record.located = cursor.data + cursor.at
            result = read_handle(cursor, &told)
            self.by_handle = True
        elif location != ROOT_NODE and location != INVALID:
            return -1
        if result != 0 or cursor.at >= cursor.length or cursor.data[cursor.at] > 1:
            return -1
        cursor.at += 1
        if cursor.data[cursor.at - 1] == 1:
            record.compare = cursor.data + cursor.at
            if read_handle(cursor, &told) < 0:
                return -1
        if record.id > self.max_id:
            self.max_id = record.id
        return 0

    cdef int _number(self) except -2:
        """Makes records found by nodeid; 0, or -1 when two have the same."""
        cdef uint64_t i
        cdef int result = 0
        if self.max_id <= DENSE * self.count + 1024:
            self.places = <uint32_t *>calloc(self.max_id + 1, sizeof(uint32_t))
            if self.places == NULL:
                raise MemoryError
        with nogil:
            for i in range(self.count):
                if self.find(self.records[i].id) != INDEX_NONE:
                    result = -1
                    break
                if self.places != NULL:
                    self.places[self.records[i].id] = <uint32_t>i + 1
                elif index_add(&self.by_id, hash_u64(self.records[i].id), <uint32_t>i) < 0:
                    result = -3
                    break
        if result == -3:
            raise MemoryError
        return result

    cdef int _check_tree(self) except -2:
        """Finds parents and counts children; 0, or -1: somebody's parent is missing, or leads to no end."""
        cdef int result
        if self.count == 0:
            return 0
        if self._number() < 0 or self.find(ROOT) == INDEX_NONE:
            return -1
        with nogil:
            result = self._link()
        if result == 1:
            # Whoever is not reached from the root or from an inode without parent is in a loop.
            self.arrange()
            result = 0 if self.ordered == self.count else -1
        return result

    cdef int _link(self) noexcept nogil:
        """Finds parents and counts the references on them; -1: not for this road, 1: somebody comes before its parent, so that there
        may be a loop.
        """
        cdef Record *record
        cdef uint64_t i
        cdef int result = 0
        for i in range(self.count):
            record = &self.records[i]
            if record.location == PATH:
                record.parent_record = self.find(record.parent)
                if record.parent_record == INDEX_NONE:
                    return -1
                self.records[record.parent_record].children += 1
                if record.parent_record >= i:
                    result = 1
        for i in range(self.count):
            if self.records[i].refcount < self.records[i].children:
                return -1
        return result

    cdef int arrange(self) except -1:
        """Fills ``order`` and ``levels`` with those that wait and lead to one that does not, or to none."""
        cdef uint32_t *starts = <uint32_t *>calloc(self.count + 2, sizeof(uint32_t))
        cdef uint32_t *below = NULL
        cdef uint64_t i
        cdef uint32_t at
        cdef uint32_t parent
        self.levels = []
        self.ordered = 0
        try:
            if starts == NULL:
                raise MemoryError
            with nogil:
                for i in range(self.count):
                    if self.records[i].progress == WAITING:
                        self.ordered += 1
                        if self.records[i].parent_record != INDEX_NONE:
                            starts[self.records[i].parent_record + 1] += 1
                for i in range(self.count + 1):
                    starts[i + 1] += starts[i]
            free(self.order)
            self.order = <uint32_t *>malloc((self.ordered + 1) * sizeof(uint32_t))
            below = <uint32_t *>malloc((self.ordered + 1) * sizeof(uint32_t))
            if self.order == NULL or below == NULL:
                raise MemoryError
            with nogil:
                # Filled from the end of each range backwards: starts[i + 1] ends as where the children of i begin.
                for i in range(self.count):
                    at = <uint32_t>(self.count - 1 - i)
                    parent = self.records[at].parent_record
                    if self.records[at].progress == WAITING and parent != INDEX_NONE:
                        starts[parent + 1] -= 1
                        below[starts[parent + 1]] = at
            return self._levels(starts, below)
        finally:
            free(starts)
            free(below)

    cdef int _levels(self, const uint32_t *starts, const uint32_t *below) except -1:
        """``starts[i + 1]`` to ``starts[i + 2]``: where the children of i are in ``below``."""
        cdef uint64_t filled = 0
        cdef uint64_t first = 0
        cdef uint64_t last
        cdef uint64_t i
        cdef uint32_t child
        with nogil:
            for i in range(self.count):
                if self.records[i].progress == WAITING and self.records[i].parent_record == INDEX_NONE:
                    self.order[filled] = <uint32_t>i
                    filled += 1
            for i in range(self.count):
                if self.records[i].progress != WAITING:
                    for child in range(starts[i + 1], starts[i + 2]):
                        self.order[filled] = below[child]
                        filled += 1
        while first < filled:
            last = filled
            self.levels.append((first, last))
            with nogil:
                for i in range(first, last):
                    for child in range(starts[self.order[i] + 1], starts[self.order[i] + 2]):
                        self.order[filled] = below[child]
                        filled += 1
            first = last
        self.ordered = filled
        return 0

    # ---- what the trailer expects -----------------------------------------------------------------------------------------

    def expect(self, identities, trusted, bint clone=False, sized=()):
        """Takes over the identities of a trailer (``InodeIdentities`` that were validated).

        ``trusted``: which of the trailer's mounts (by index) are the source's own file systems here, so that handles count.
        ``clone``: they prove nothing, but one that differs, with another time of change, is another file's. ``sized``: on which of
        the trusted mounts a file has to have the source's size as well.
        """
        cdef View ids
        cdef View sizes
        cdef View mtimes
        cdef const uint8_t[:] shape_of
        cdef const uint8_t[:] kinds
        cdef const uint8_t[:] handles
        cdef const uint8_t *base
        cdef uint32_t lengths[256]
        cdef int32_t types[256]
        cdef uint8_t counts[256]
        cdef uint8_t fids[256]
        cdef uint8_t own[256]
        cdef uint8_t sizes_count[256]
        cdef Py_ssize_t i
        cdef uint64_t at = 0
        cdef uint32_t found
        cdef Record *record
        cdef uint8_t shape
        self.clone = clone
        for one in identities:
            if not one.ids:
                continue
            self.kept.append(one)
            memset(lengths, 0, sizeof(lengths))
            for index, each in enumerate(one.shapes):
                lengths[index] = each.length
                types[index] = each.handle_type
                counts[index] = each.mount in trusted
                fids[index] = not each.openable
                own[index] = each.mount == 0
                sizes_count[index] = each.mount in sized
            ids, sizes, mtimes = view_of(one.ids), view_of(one.sizes), view_of(one.mtimes_ns)
            shape_of, kinds, handles = one.shape_of, one.kinds, one.handles
            base = &handles[0] if len(one.handles) else NULL
            at = 0
            with nogil:
                for i in range(ids.count):
                    shape = shape_of[i]
                    found = self.find(view_item(&ids, i))
                    if found != INDEX_NONE:
                        record = &self.records[found]
                        record.told = 1
                        record.kind = kinds[i]
                        record.size = view_item(&sizes, i)
                        record.mtime_ns = <int64_t>view_item(&mtimes, i)
                        if shape != NO_SHAPE and counts[shape]:
                            record.expected_type = types[shape]
                            record.expected_size = <uint8_t>lengths[shape]
                            record.expected_fid = fids[shape]
                            record.expected_own = own[shape]
                            record.sized = sizes_count[shape]
                            record.expected = base + at
                    if shape != NO_SHAPE:
                        at += lengths[shape]

    def believe(self, folders):
        """Takes over when directories were changed (``Folders`` or None): in one that was not since, names need no look."""
        cdef const uint64_t[:] numbers
        cdef const int64_t[:] times
        cdef uint32_t found
        cdef Py_ssize_t i
        if folders is None:
            return
        numbers, times = folders.ids, folders.changed_ns
        with nogil:
            for i in range(min(numbers.shape[0], times.shape[0])):
                found = self.find(numbers[i])
                if found != INDEX_NONE:
                    self.records[found].changed_ns = times[i]

    def claim(self, identities):
        """Takes over where the trailer says that inodes located by handle lie (``InodeIdentities`` that were validated).

        What is there under its name and has its handle needs no opening, and lies in the share for sure. A claim that leads in a loop
        is no fault of the stream's state: its inodes are left, as ``arrange`` never reaches them.
        """
        cdef View ids
        cdef View parents
        cdef View lengths
        cdef const uint8_t[:] names
        cdef const uint8_t *base
        cdef Py_ssize_t i
        cdef uint64_t at
        cdef uint64_t length
        cdef uint32_t found
        cdef uint32_t parent
        cdef Record *record
        for one in identities:
            if not one.ids or not one.names:
                continue
            self.kept.append(one)
            ids, parents, lengths = view_of(one.ids), view_of(one.parents), view_of(one.name_lengths)
            names = one.names
            base = &names[0]
            at = 0
            with nogil:
                for i in range(ids.count):
                    found = self.find(view_item(&ids, i))
                    parent = self.find(view_item(&parents, i))
                    length = view_item(&lengths, i)
                    if found != INDEX_NONE and parent != INDEX_NONE and 0 < length <= NAME_MAX_BYTES:
                        record = &self.records[found]
                        if record.location == FILE_HANDLE:
                            record.parent = view_item(&parents, i)
                            record.parent_record = parent
                            record.name = base + at
                            record.name_length = <uint16_t>length
                    at += length


def parse(data):
    """The inodes at the beginning of a stream; None when the slow road has to look at it."""
    cdef Records records = Records()
    records.held = Held(data)
    if records._parse() < 0 or records._check_tree() < 0:
        return None
    return records


def handles(const uint8_t[:] data, uint64_t count):
    """The open files at the beginning of ``data``: (tuple of ``state.Handle``, bytes); None when the slow road has to look at it."""
    cdef Cursor cursor
    cdef uint64_t id = 0
    cdef uint64_t inode = 0
    cdef uint64_t source = 0
    cdef uint64_t flags = 0
    cdef uint64_t _i
    found = []
    if data.shape[0] == 0:
        return None
    cursor.data = &data[0]
    cursor.length = data.shape[0]
    cursor.at = 0
    for _i in range(count):
        if (
            read_number(&cursor, &id) < 0 or read_number(&cursor, &inode) < 0 or read_number(&cursor, &source) < 0
            or read_number(&cursor, &flags) < 0 or source != 0 or flags >> 32
        ):
            return None
        found.append(Handle(id, inode, <int32_t>(<uint32_t>(flags >> 1) ^ (0 - <uint32_t>(flags & 1)))))
    return tuple(found), cursor.at
