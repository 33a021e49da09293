"""The inodes of a state without an object each: parsed, checked, and restored straight from the stream's bytes.

This is the fast road of a load, for what is in order; it judges nothing. A stream that it can't vouch for is left to
``codec`` and ``state.validate``, which say what is wrong; an inode that it can't restore at once, or that is not the source's,
is left to ``restore``, which looks for it and says what became of it. So there is one place for each sentence, and none is here.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset

from ferryfs.engine.index cimport INDEX_NONE, Index, hash_u64, index_add, index_free, index_next
from ferryfs.engine.inodes cimport (
    CHUNK, INODE_KEEPS_FD, Identity, Inode, InodeTable, cache_fd, fill_slot, find_mount, find_slot, identify, inode_fd,
    inode_put, mount_of, set_hint, take_slot,
)
from ferryfs.engine.device cimport Device
from ferryfs.engine.sys cimport (
    AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, MAX_HANDLE_SIZE, O_CLOEXEC, O_NOFOLLOW, O_PATH, STATX_BASIC_STATS, STATX_MNT_ID,
    STATX_MNT_ID_UNIQUE, SYS_statx, Statx, close, file_handle, makedev, open_by_handle_at, openat, syscall,
)
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock
from ferryfs.migration.fid cimport FidBuffer, fid_of

from array import array

from ferryfs.migration.state import ByHandle, FileHandle, FullPath, Inode as InodeRecord, Invalid, Path, RootNode


cdef enum:
    ROOT = 1
    ROOT_NODE = 0               # the enum of the stream
    PATH = 1
    INVALID = 2
    FULL_PATH = 3
    FILE_HANDLE = 4
    NAME_MAX_BYTES = 4095       # as state.MAX_NAME_BYTES
    LEAST_BYTES = 4             # of an inode's record
    KIND_SHIFT = 12
    KIND_FILE = 8               # S_IFREG >> 12
    KIND_DIR = 4
    NO_SHAPE = 255
    ROUND = 4096                # records that a thread takes at a time

# How far a record has come.
cdef enum:
    WAITING = 0
    RESTORED = 1
    LEFT = 2                    # for the slow road


cdef struct Handle:
    uint64_t at                 # offset in the stream
    uint64_t mount
    int32_t type
    uint8_t size                # 0: none

cdef struct Record:
    uint64_t id
    uint64_t refcount
    uint64_t parent
    uint64_t name_at            # offset in the stream
    uint32_t name_length
    const uint8_t *claim        # of a FILE_HANDLE: its name in `parent`, as the trailer says; NULL: it does not
    uint32_t parent_record      # INDEX_NONE: none
    uint32_t children
    uint8_t location
    uint8_t progress
    # What the trailer expects of it; `expected` 0: nothing.
    uint8_t expected
    uint8_t kind
    uint8_t expected_handle_size
    uint8_t expected_fid        # the handle is for comparing only
    uint8_t aged                # a file with another time of change here, where nothing proves that it is the same
    int32_t expected_handle_type
    uint64_t expected_size
    int64_t expected_mtime
    const uint8_t *expected_handle
    Handle handle               # of a FILE_HANDLE location
    Handle compare              # of --migration-verify-handles

cdef struct HandleBuffer:
    file_handle head
    uint8_t bytes[MAX_HANDLE_SIZE]

cdef struct KnownMount:
    uint64_t number             # the source's
    uint64_t here               # the table's
    int fd                      # for open_by_handle_at

cdef struct Cursor:
    const uint8_t *data
    uint64_t length
    uint64_t at


# ---- parsing: each function is 0, or -1 for "not for this road" --------------------------------------------------------------


cdef int number(Cursor *cursor, uint64_t *value) noexcept nogil:
    cdef uint8_t digit
    cdef int shift = 0
    value[0] = 0
    while shift < 64:
        if cursor.at >= cursor.length:
            return -1
        digit = cursor.data[cursor.at]
        cursor.at += 1
        if shift == 63 and digit > 1:
            return -1
        value[0] |= <uint64_t>(digit & 0x7f) << shift
        if digit < 0x80:
            return 0
        shift += 7
    return -1


cdef int extent(Cursor *cursor, uint64_t *at, uint64_t *length) noexcept nogil:
    """A length and that many bytes."""
    if number(cursor, length) < 0 or length[0] > cursor.length - cursor.at:
        return -1
    at[0] = cursor.at
    cursor.at += length[0]
    return 0


cdef int handle(Cursor *cursor, Handle *into) noexcept nogil:
    cdef uint64_t zigzag = 0
    cdef uint64_t length = 0
    if number(cursor, &into.mount) < 0 or number(cursor, &zigzag) < 0 or zigzag >> 32:
        return -1
    into.type = <int32_t>(<uint32_t>(zigzag >> 1) ^ (0 - <uint32_t>(zigzag & 1)))
    if extent(cursor, &into.at, &length) < 0 or length == 0 or length > MAX_HANDLE_SIZE:
        return -1
    into.size = <uint8_t>length
    return 0


cdef bint is_utf8(const uint8_t *text, uint64_t length) noexcept nogil:
    """Whether Python (and the reference daemon) would take these bytes for UTF-8: no overlong forms, no surrogates (RFC 3629)."""
    cdef uint64_t i = 0
    cdef uint8_t lead
    cdef int more
    cdef uint8_t low
    cdef uint8_t high
    while i < length:
        lead = text[i]
        i += 1
        if lead < 0x80:
            continue
        low, high = 0x80, 0xbf
        if 0xc2 <= lead <= 0xdf:
            more = 1
        elif 0xe0 <= lead <= 0xef:
            more = 2
            low = 0xa0 if lead == 0xe0 else 0x80
            high = 0x9f if lead == 0xed else 0xbf
        elif 0xf0 <= lead <= 0xf4:
            more = 3
            low = 0x90 if lead == 0xf0 else 0x80
            high = 0x8f if lead == 0xf4 else 0xbf
        else:
            return False
        while more > 0:
            if i >= length or not low <= text[i] <= high:
                return False
            low, high = 0x80, 0xbf
            i += 1
            more -= 1
    return True


cdef int name(Cursor *cursor, Record *record) noexcept nogil:
    """A name of one component; 0 or -1."""
    cdef uint64_t length = 0
    cdef const uint8_t *text
    if extent(cursor, &record.name_at, &length) < 0 or length == 0 or length > NAME_MAX_BYTES:
        return -1
    text = cursor.data + record.name_at
    record.name_length = <uint32_t>length
    if text[0] == c'.' and (length == 1 or (length == 2 and text[1] == c'.')):
        return -1
    if memchr(text, c'/', length) != NULL or memchr(text, 0, length) != NULL or not is_utf8(text, length):
        return -1
    return 0


# Cleared by the collector of cycles, the buffer's owner would go before the buffer was given back.
@cython.no_gc_clear
cdef class Records:
    """The inodes of one state, in the stream's order: a sequence of ``state.Inode``, made when they are asked for."""

    cdef Record *records
    cdef uint32_t *order            # record numbers, parents before children
    cdef Index by_id
    cdef Py_buffer buffer
    cdef bint held
    cdef object kept                # what expected_handle points into
    cdef bint clone
    cdef list levels                # [(first, last)] in `order`
    cdef uint64_t count
    cdef readonly uint64_t end      # offset behind the inodes
    cdef readonly uint64_t max_id
    cdef readonly bint padded       # the count promises a trailer
    cdef readonly bint by_handle    # some are located by handle
    cdef readonly int version

    def __cinit__(self):
        self.records = NULL
        self.order = NULL
        self.held = False
        memset(&self.by_id, 0, sizeof(self.by_id))
        self.kept = []
        self.levels = []

    def __dealloc__(self):
        free(self.records)
        free(self.order)
        index_free(&self.by_id)
        if self.held:
            PyBuffer_Release(&self.buffer)

    def __len__(self):
        return self.count

    def __contains__(self, uint64_t id):
        return self._find(id) != INDEX_NONE

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
            location = Path(record.parent, self._bytes(record.name_at, record.name_length).decode())
        elif record.location == FULL_PATH:
            location = FullPath(self._bytes(record.name_at, record.name_length).decode())
        elif record.location == INVALID:
            location = Invalid()
        else:
            location = ByHandle(self._handle(&record.handle))
        return InodeRecord(record.id, record.refcount, location, self._handle(&record.compare) if record.compare.size else None)

    def get(self, uint64_t id):
        """The inode of that number; None when there is none."""
        cdef uint32_t found = self._find(id)
        return None if found == INDEX_NONE else self[found]

    def left(self):
        """Numbers (in the sequence) of the records that the fast road has not restored, without the root's."""
        return [i for i in range(self.count) if self.records[i].progress != RESTORED and self.records[i].id != ROOT]

    def pinned(self):
        """Nodeids of the restored inodes that the guest holds no lookup on: each is pinned once. As array("Q")."""
        cdef uint64_t i
        found = array("Q", bytes(8 * self.count))
        cdef uint64_t[:] into = found
        cdef uint64_t filled = 0
        for i in range(self.count):
            if (
                self.records[i].progress == RESTORED and self.records[i].id != ROOT
                and self.records[i].refcount == self.records[i].children
            ):
                into[filled] = self.records[i].id
                filled += 1
        into = None
        del found[filled:]
        return found

    def aged(self):
        """Numbers (in the sequence) of restored files whose time of change is another one than at the source, in a copy."""
        return [i for i in range(self.count) if self.records[i].progress == RESTORED and self.records[i].aged]

    def children(self, uint64_t index):
        """How many inodes name this one as their parent."""
        return self.records[index].children

    cdef bytes _bytes(self, uint64_t at, uint64_t length):
        return (<const uint8_t *>self.buffer.buf)[at : at + length]

    cdef object _handle(self, const Handle *handle):
        return FileHandle(handle.mount, handle.type, self._bytes(handle.at, handle.size))

    cdef uint32_t _find(self, uint64_t id) noexcept nogil:
        cdef uint32_t hash = hash_u64(id)
        cdef uint32_t cursor = INDEX_NONE
        cdef uint32_t found
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
        cursor.data = <const uint8_t *>self.buffer.buf
        cursor.length = self.buffer.len
        cursor.at = 0
        if number(&cursor, &version) < 0 or version > 1:
            return -1
        self.version = <int>version
        before = cursor.at
        if number(&cursor, &self.count) < 0 or self.count > (cursor.length - cursor.at) // LEAST_BYTES:
            return -1
        self.padded = cursor.at - before > 1 and cursor.data[cursor.at - 1] == 0
        if self.count > 0x7fffffff:
            return -1
        self.records = <Record *>calloc(self.count + 1, sizeof(Record))
        self.order = <uint32_t *>malloc((self.count + 1) * sizeof(uint32_t))
        if self.records == NULL or self.order == NULL:
            raise MemoryError
        with nogil:
            for i in range(self.count):
                result = self._parse_one(&cursor, &self.records[i], <uint32_t>i)
                if result != 0:
                    break
        if result != 0:
            return -1
        self.end = cursor.at
        return 0

    cdef int _parse_one(self, Cursor *cursor, Record *record, uint32_t index) noexcept nogil:
        cdef uint64_t location = 0
        cdef int result = 0
        if number(cursor, &record.id) < 0 or number(cursor, &record.refcount) < 0 or number(cursor, &location) < 0:
            return -1
        if record.id == 0 or (location == ROOT_NODE) != (record.id == ROOT) or self._find(record.id) != INDEX_NONE:
            return -1
        record.location = <uint8_t>location
        record.parent_record = INDEX_NONE
        if location == PATH:
            if number(cursor, &record.parent) < 0:
                return -1
            result = name(cursor, record)
        elif location == FILE_HANDLE:
            result = handle(cursor, &record.handle)
            self.by_handle = True
        elif location != ROOT_NODE and location != INVALID:
            return -1
        if result != 0 or cursor.at >= cursor.length or cursor.data[cursor.at] > 1:
            return -1
        cursor.at += 1
        if cursor.data[cursor.at - 1] == 1 and handle(cursor, &record.compare) < 0:
            return -1
        if record.id > self.max_id:
            self.max_id = record.id
        return index_add(&self.by_id, hash_u64(record.id), index)

    cdef int _arrange(self) except -2:
        """Finds parents, counts children, and puts parents before children; 0 or -1."""
        cdef int result
        if self.count == 0:
            return 0
        if self._find(ROOT) == INDEX_NONE:
            return -1
        with nogil:
            result = self._link()
        # Whoever is not reached from the root or from an inode without parent is in a loop.
        return 0 if result == 0 and self._order() == self.count else -1

    cdef int _link(self) noexcept nogil:
        """Finds parents and counts the references on them; 0 or -1."""
        cdef Record *record
        cdef uint64_t i
        for i in range(self.count):
            record = &self.records[i]
            if record.location == PATH:
                record.parent_record = self._find(record.parent)
                if record.parent_record == INDEX_NONE:
                    return -1
                self.records[record.parent_record].children += 1
        for i in range(self.count):
            if self.records[i].refcount < self.records[i].children:
                return -1
        return 0

    cdef uint64_t _order(self) except? 0xffffffffffffffff:
        """Fills ``order`` and ``levels``; how many records lead to the root or to one without parent."""
        cdef uint32_t *starts = <uint32_t *>calloc(self.count + 2, sizeof(uint32_t))
        cdef uint32_t *below = <uint32_t *>malloc((self.count + 1) * sizeof(uint32_t))
        cdef uint64_t i
        cdef uint32_t parent
        self.levels = []
        try:
            if starts == NULL or below == NULL:
                raise MemoryError
            with nogil:
                for i in range(self.count):
                    if self.records[i].parent_record != INDEX_NONE:
                        starts[self.records[i].parent_record + 1] += 1
                for i in range(self.count + 1):
                    starts[i + 1] += starts[i]
                # Filled from the end of each range backwards: starts[i + 1] ends as where the children of i begin.
                for i in range(self.count):
                    parent = self.records[i].parent_record
                    if parent != INDEX_NONE:
                        starts[parent + 1] -= 1
                        below[starts[parent + 1]] = <uint32_t>i
            return self._levels(starts, below)
        finally:
            free(starts)
            free(below)

    cdef uint64_t _levels(self, const uint32_t *starts, const uint32_t *below) except? 0xffffffffffffffff:
        cdef uint64_t filled = 0
        cdef uint64_t first = 0
        cdef uint64_t last
        cdef uint64_t i
        cdef uint32_t child
        cdef uint32_t at
        for i in range(self.count):
            if self.records[i].parent_record == INDEX_NONE:
                self.order[filled] = <uint32_t>i
                filled += 1
        while first < filled:
            last = filled
            self.levels.append((first, last))
            for i in range(first, last):
                at = self.order[i]
                for child in range(starts[at + 1], starts[at + 2]):
                    self.order[filled] = below[child]
                    filled += 1
            first = last
        return filled

    # ---- what the trailer expects -----------------------------------------------------------------------------------------

    def expect(self, identities, trusted, bint clone):
        """Takes over the identities of a trailer (``InodeIdentities`` that were validated).

        ``trusted``: which of the trailer's mounts (by index) are the source's own file systems here, so that handles count.
        ``clone``: they prove nothing, but one that differs, with another time of change, is another file's.
        """
        cdef const uint64_t[:] ids
        cdef const uint64_t[:] sizes
        cdef const int64_t[:] mtimes
        cdef const uint8_t[:] shape_of
        cdef const uint8_t[:] kinds
        cdef const uint8_t[:] handles
        cdef const uint8_t *base
        cdef uint32_t lengths[256]
        cdef int32_t types[256]
        cdef uint8_t counts[256]
        cdef uint8_t fids[256]
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
            ids, sizes, mtimes, shape_of, kinds = one.ids, one.sizes, one.mtimes_ns, one.shape_of, one.kinds
            handles = one.handles
            base = &handles[0] if len(one.handles) else NULL
            at = 0
            with nogil:
                for i in range(ids.shape[0]):
                    shape = shape_of[i]
                    found = self._find(ids[i])
                    if found != INDEX_NONE:
                        record = &self.records[found]
                        record.expected = 1
                        record.kind = kinds[i]
                        record.expected_size = sizes[i]
                        record.expected_mtime = mtimes[i]
                        if shape != NO_SHAPE and counts[shape]:
                            record.expected_handle_type = types[shape]
                            record.expected_handle_size = <uint8_t>lengths[shape]
                            record.expected_fid = fids[shape]
                            record.expected_handle = base + at
                    if shape != NO_SHAPE:
                        at += lengths[shape]

    def claim(self, identities):
        """Takes over where the trailer says that inodes located by handle lie (``InodeIdentities`` that were validated).

        What is there under its name and has its handle needs no opening, and lies in the share for sure.
        """
        cdef const uint64_t[:] ids
        cdef const uint64_t[:] parents
        cdef const uint64_t[:] lengths
        cdef const uint8_t[:] names
        cdef const uint8_t *base
        cdef Py_ssize_t i
        cdef uint64_t at
        cdef uint32_t found
        cdef uint32_t parent
        cdef Record *record
        for one in identities:
            if not one.ids or not one.names:
                continue
            self.kept.append(one)
            ids, parents, lengths, names = one.ids, one.parents, one.name_lengths, one.names
            base = &names[0]
            at = 0
            with nogil:
                for i in range(ids.shape[0]):
                    found = self._find(ids[i])
                    parent = self._find(parents[i])
                    if found != INDEX_NONE and parent != INDEX_NONE and 0 < lengths[i] <= NAME_MAX_BYTES:
                        record = &self.records[found]
                        if record.location == FILE_HANDLE:
                            record.parent = parents[i]
                            record.parent_record = parent
                            record.claim = base + at
                            record.name_length = <uint32_t>lengths[i]
                    at += lengths[i]
        # A claim that leads in a loop is no fault of the stream's state: its inodes are left, as they are never reached.
        self._order()

    # ---- restoring --------------------------------------------------------------------------------------------------------

    def leave(self, uint64_t id):
        """Keeps an inode from the fast road: something else stands for it."""
        cdef uint32_t found = self._find(id)
        if found != INDEX_NONE:
            self.records[found].progress = LEFT

    def restore(self, Device device, bint compare, bint same, mount_fds, pool_map, int threads):
        """Restores what is where it should be and is what it should be; the rest is ``left``.

        ``compare``: hold it against what the trailer expects; ``same``: handles count, as source and destination share one
        directory. ``mount_fds``: mount id of the source -> (fd for open_by_handle_at). ``pool_map``: map of an executor.
        The rings must be stopped, and nothing else may use the tables. An inode that only leads to others (``pinned``) is pinned, or
        it would go at once.
        """
        mounts = [(number, fd, mount_here(device, fd)) for number, fd in mount_fds.items()]
        root = self._find(ROOT)
        if root != INDEX_NONE:
            self.records[root].progress = RESTORED

        def one(span):
            self._restore_range(device, span[0], span[1], compare, same, mounts)

        for first, last in self.levels:
            spans = [(at, min(at + ROUND, last)) for at in range(first, last, ROUND)]
            if threads > 1 and len(spans) > 1:
                list(pool_map(one, spans))
            else:
                for span in spans:
                    one(span)

    def _restore_range(self, Device device, uint64_t first, uint64_t last, bint compare, bint same, list mounts):
        cdef KnownMount *known = <KnownMount *>malloc((len(mounts) + 1) * sizeof(KnownMount))
        cdef int count = 0
        cdef uint64_t i
        try:
            if known == NULL:
                raise MemoryError
            for number, fd, here in mounts:
                known[count].number = number
                known[count].fd = fd
                known[count].here = here
                count += 1
            with nogil:
                for i in range(first, last):
                    if self.records[self.order[i]].progress == WAITING:
                        self._restore_one(&device.server.inodes, &self.records[self.order[i]], compare, same, known, count)
        finally:
            free(known)

    cdef void _restore_one(
        self, InodeTable *table, Record *record, bint compare, bint same, const KnownMount *mounts, int count
    ) noexcept nogil:
        cdef Identity identity
        cdef Statx st
        cdef int fd = -1
        record.progress = LEFT
        if record.parent_record != INDEX_NONE:
            if self.records[record.parent_record].progress != RESTORED:
                return
            if self._look(table, record, &identity, &st, &fd) < 0:
                return
            if record.location == FILE_HANDLE and not self._has_handle(record, &identity, mounts, count):
                if fd >= 0:
                    close(fd)
                return
        elif record.location == FILE_HANDLE:
            if self._open(record, mounts, count, &fd) < 0:
                return
            # A directory must be shown to lie below the root: the slow road does that.
            # One without a name is kept open there.
            if (
                look_at(table, fd, b"", AT_EMPTY_PATH, &identity, &st) < 0 or st.mode >> KIND_SHIFT == KIND_DIR or st.nlink == 0
            ):
                close(fd)
                return
        else:
            return
        if not self._is_it(record, &identity, &st, fd, compare, same):
            if fd >= 0:
                close(fd)
        elif self._file(table, record, &identity, &st, fd) == 0:
            record.progress = RESTORED

    cdef const uint8_t *_name(self, const Record *record) noexcept nogil:
        return record.claim if record.claim != NULL else <const uint8_t *>self.buffer.buf + record.name_at

    cdef bint _has_handle(self, const Record *record, const Identity *identity, const KnownMount *mounts, int count) noexcept nogil:
        """Whether what lies under the claimed name has the handle by which the inode is located."""
        cdef int i
        if identity.handle_size != record.handle.size or identity.handle_type != record.handle.type:
            return False
        if memcmp(identity.handle, <const uint8_t *>self.buffer.buf + record.handle.at, record.handle.size) != 0:
            return False
        for i in range(count):
            if mounts[i].number == record.handle.mount:
                return mounts[i].here == identity.mount_id
        return False

    cdef int _look(self, InodeTable *table, const Record *record, Identity *identity, Statx *st, int *fd) noexcept nogil:
        """Identity and attributes of a Path, with an fd where the inode has to be held by one; 0 or -1."""
        cdef char name[NAME_MAX_BYTES + 1]
        cdef Inode *parent = NULL
        cdef uint32_t slot
        cdef int parent_fd
        cdef int result
        # SAFETY: name() saw to at most NAME_MAX_BYTES within the stream, claim() to as many within a column that is kept.
        memcpy(name, self._name(record), record.name_length)
        name[record.name_length] = 0
        pthread_mutex_lock(&table.lock)
        slot = find_slot(table, record.parent)
        if slot != INDEX_NONE:
            parent = &table.chunks[slot // CHUNK][slot % CHUNK]
            parent.pins += 1
        pthread_mutex_unlock(&table.lock)
        if parent == NULL:
            return -1
        parent_fd = inode_fd(table, parent)
        result = look_in(table, parent_fd, name, identity, st, fd) if parent_fd >= 0 else -1
        inode_put(table, parent)
        return result

    cdef int _open(self, const Record *record, const KnownMount *mounts, int count, int *fd) noexcept nogil:
        """An O_PATH fd of a handle; 0 or -1."""
        cdef HandleBuffer buffer
        cdef int i
        for i in range(count):
            if mounts[i].number == record.handle.mount:
                buffer.head.handle_bytes = record.handle.size
                buffer.head.handle_type = record.handle.type
                # SAFETY: handle() saw to at most MAX_HANDLE_SIZE bytes within the stream.
                memcpy(buffer.bytes, <const uint8_t *>self.buffer.buf + record.handle.at, record.handle.size)
                fd[0] = open_by_handle_at(mounts[i].fd, &buffer.head, O_PATH | O_NOFOLLOW | O_CLOEXEC)
                return 0 if fd[0] >= 0 else -1
        return -1

    cdef bint _is_it(
        self, Record *record, const Identity *identity, const Statx *st, int fd, bint compare, bint same
    ) noexcept nogil:
        """Whether what was found is the source's inode, as far as anything says; the slow road finds out why not."""
        cdef FidBuffer fid
        cdef uint32_t fid_size
        cdef bint has_handle
        if record.location == PATH and record.compare.size and (
            identity.handle_size != record.compare.size or identity.handle_type != record.compare.type
            or memcmp(identity.handle, <const uint8_t *>self.buffer.buf + record.compare.at, record.compare.size) != 0
        ):
            return False
        if not compare or not record.expected:
            return True
        # The name may have been given to another file between the two calls of look_at: its type is not the handle's then.
        if st.mode >> KIND_SHIFT != record.kind:
            return False
        has_handle = (
            identity.handle_size > 0 and identity.handle_size == record.expected_handle_size
            and identity.handle_type == record.expected_handle_type
            and memcmp(identity.handle, record.expected_handle, identity.handle_size) == 0
        )
        if same and record.expected_handle_size:
            if not record.expected_fid:
                return has_handle
            fid_size = fid_of(fd, &fid) if fd >= 0 else 0
            return (
                fid_size == record.expected_handle_size and fid.head.handle_type == record.expected_handle_type
                and memcmp(fid.bytes, record.expected_handle, fid_size) == 0
            )
        if record.kind != KIND_FILE:
            return True
        if st.size != record.expected_size:
            return False
        record.aged = <int64_t>st.mtime.sec * 1_000_000_000 + st.mtime.nsec != record.expected_mtime
        return not (self.clone and record.aged and record.expected_handle_size and not record.expected_fid and not has_handle)

    cdef int _file(self, InodeTable *table, const Record *record, const Identity *identity, const Statx *st, int fd) noexcept nogil:
        """Into the table, pinned; takes ``fd`` over. 0 or -1."""
        cdef Inode *inode
        cdef uint32_t slot
        cdef char name[NAME_MAX_BYTES + 1]
        cdef int mount = -1
        cdef bint kept
        if fd >= 0:
            mount = mount_of(table, identity, fd, st.mode)
            if mount < 0:
                close(fd)
                return -1
        # SAFETY: as in _look.
        memcpy(name, self._name(record), record.name_length)
        name[record.name_length] = 0
        pthread_mutex_lock(&table.lock)
        if mount < 0:
            # Seen a moment ago by _look, and the root keeps its own; others stay as long as an inode of theirs.
            mount = find_mount(table, identity.mount_id)
            if mount < 0:
                pthread_mutex_unlock(&table.lock)
                return -1
            table.mounts[mount].inodes += 1
        kept = table.mounts[mount].fd < 0
        slot = INDEX_NONE
        # Two numbers for one inode (a hard link made into the state of another daemon) stay two: only the first is found by identity.
        if not (kept and (fd < 0 or table.must_use_handles or table.fds >= table.max_fds)):
            slot = take_slot(table)
        if slot == INDEX_NONE or fill_slot(table, slot, identity, mount, st.mode, record.id) < 0:
            table.mounts[mount].inodes -= 1
            pthread_mutex_unlock(&table.lock)
            if fd >= 0:
                close(fd)
            return -1
        inode = &table.chunks[slot // CHUNK][slot % CHUNK]
        inode.nlookup = record.refcount - record.children
        inode.pins = 1 if record.refcount == record.children else 0
        if record.name_length:
            set_hint(inode, record.parent, name)
        if kept:
            inode.fd = fd
            inode.flags = INODE_KEEPS_FD
            table.fds += 1
            fd = -1
        elif fd >= 0:
            fd = cache_fd(table, inode, fd)
        pthread_mutex_unlock(&table.lock)
        if fd >= 0:
            close(fd)
        return 0


cdef int look_in(
    InodeTable *table, int parent_fd, const char *name, Identity *identity, Statx *st, int *fd
) noexcept nogil:
    """Identity and attributes of a name in an open directory, with an fd where the inode has to be held by one; 0 or -1."""
    cdef int mount
    cdef bint by_handle
    if look_at(table, parent_fd, name, 0, identity, st) < 0:
        return -1
    pthread_mutex_lock(&table.lock)
    mount = find_mount(table, identity.mount_id)
    by_handle = mount >= 0 and table.mounts[mount].fd >= 0 and identity.handle_size > 0
    pthread_mutex_unlock(&table.lock)
    if by_handle:
        return 0
    fd[0] = openat(parent_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC)
    if fd[0] < 0:
        return -1
    if look_at(table, fd[0], b"", AT_EMPTY_PATH, identity, st) < 0:
        close(fd[0])
        fd[0] = -1
        return -1
    return 0


cdef int look_at(InodeTable *table, int dir_fd, const char *name, int flags, Identity *identity, Statx *st) noexcept nogil:
    """Identity and attributes of one name; 0 or -1.

    With a name these are two calls, and the name may be given to another file between them. The guest then holds the file of the
    handle, with attributes that its next GETATTR mends.
    """
    cdef unsigned int mask = STATX_BASIC_STATS | (STATX_MNT_ID_UNIQUE if table.unique_mount_ids else STATX_MNT_ID)
    if identify(table, dir_fd, name, flags, identity) < 0:
        return -1
    if syscall(SYS_statx, dir_fd, name, flags | AT_SYMLINK_NOFOLLOW, mask, st) < 0:
        return -1
    identity.dev = makedev(st.dev_major, st.dev_minor)
    identity.ino = st.ino
    if identity.handle_size == 0:
        identity.handle_type = 0
        identity.mount_id = st.mnt_id
    return 0


cdef uint64_t mount_here(Device device, int fd) except? 0:
    """The number that the table has for the mount of ``fd``; 0 when it can't be told."""
    cdef Identity identity
    if identify(&device.server.inodes, fd, b"", AT_EMPTY_PATH, &identity) < 0 or identity.handle_size == 0:
        return 0
    return identity.mount_id


def parse(data):
    """The inodes at the beginning of a stream; None when the slow road has to look at it."""
    cdef Records records = Records()
    PyObject_GetBuffer(data, &records.buffer, PyBUF_SIMPLE)
    records.held = True
    if records._parse() < 0 or records._arrange() < 0:
        return None
    return records
