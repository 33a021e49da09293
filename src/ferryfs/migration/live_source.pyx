"""The source's live tables as a state: which inodes are where they were last seen, and the stream straight from there.

No Python object an inode: statuses, counts, sizes and times are arrays beside the table's slots. Checking is safe while the guest
works on: an inode is pinned while it is looked at, and slots are looked up under the table's lock, because its chunks and indices
move as it grows. Everything that writes is for a stopped guest.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset, strlen

import os
from array import array

from ferryfs.engine.device cimport Device
from ferryfs.engine.handles cimport HANDLE_CHUNK, HANDLE_DIR, HANDLE_RELEASED, HANDLE_USED, Handle, HandleTable
from ferryfs.engine.index cimport INDEX_NONE
from ferryfs.engine.identity cimport identify, identify_stat
from ferryfs.engine.inode_fds cimport inode_fd
from ferryfs.engine.inodes cimport (
    CHUNK, INODE_HOLLOW, INODE_INVALID, Identity, Inode, InodeTable, find_identity, find_slot, inode_hint, inode_put,
)
from ferryfs.engine.mounts cimport find_mount
from ferryfs.engine.sys cimport AT_EMPTY_PATH
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock
from ferryfs.migration.half_read cimport rest_of
from ferryfs.migration.in_place cimport check_slot
from ferryfs.migration.live_encode cimport encode_files, encode_slots
from ferryfs.migration.live_identities cimport identity_payloads
from ferryfs.migration.live_slots cimport ABSENT, AT_ODD_PATH, AT_PATH, LEFT_OUT, NAME_ROOM, ROOT, UNKNOWN, Slots
from ferryfs.migration.steady cimport measure_files, stamp_folders, take_steady, unmark


cdef void *grown(void *array_, size_t size) except NULL:
    """The array with room for so many bytes. MemoryError: the array is still where it was."""
    cdef void *larger = realloc(array_, size)
    if larger == NULL:
        raise MemoryError
    return larger


cdef class LiveSource:
    """One look at a device's tables. ``begin`` starts it anew; slots made later are not seen by it."""

    cdef Device device
    cdef InodeTable *table
    cdef HandleTable *handles
    cdef uint8_t *status
    cdef uint32_t *children
    cdef uint64_t *sizes
    cdef int64_t *mtimes
    cdef int64_t *stamps
    cdef uint32_t room                  # of slots that the arrays have
    cdef bint some_lost                 # an earlier migration has lost some inodes, or their content
    cdef readonly uint32_t slots
    cdef readonly uint32_t inodes       # that the guest held at `begin`: of the slots, some may be free

    def __cinit__(self, Device device):
        self.device = device
        self.table = &device.server.inodes
        self.handles = &device.server.handles
        self.status = NULL
        self.children = NULL
        self.sizes = NULL
        self.mtimes = NULL
        self.stamps = NULL

    def __dealloc__(self):
        self._free()

    cdef void _free(self) noexcept:
        free(self.status)
        free(self.children)
        free(self.sizes)
        free(self.mtimes)
        free(self.stamps)
        self.status = NULL
        self.children = NULL
        self.sizes = NULL
        self.mtimes = NULL
        self.stamps = NULL
        self.room = 0
        self.slots = 0

    cdef Slots _known(self) noexcept nogil:
        cdef Slots known
        known.table = self.table
        known.count = self.slots
        known.status = self.status
        known.children = self.children
        known.sizes = self.sizes
        known.mtimes = self.mtimes
        known.stamps = self.stamps
        return known

    cdef Inode *_at(self, uint32_t slot) noexcept nogil:
        return &self.table.chunks[slot // CHUNK][slot % CHUNK]

    cdef Handle *_handle_at(self, uint32_t slot) noexcept nogil:
        return &self.handles.chunks[slot // HANDLE_CHUNK][slot % HANDLE_CHUNK]

    cdef Inode *_pin(self, uint64_t id) except NULL:
        """The inode, pinned, whether or not the guest still counts lookups on it. Raises KeyError."""
        cdef Inode *inode = NULL
        cdef uint32_t slot
        pthread_mutex_lock(&self.table.lock)
        slot = find_slot(self.table, id)
        if slot != INDEX_NONE:
            inode = self._at(slot)
            inode.pins += 1
        pthread_mutex_unlock(&self.table.lock)
        if inode == NULL:
            raise KeyError(id)
        return inode

    cdef uint32_t _slot(self, uint64_t id) noexcept nogil:
        """The slot of an inode as of ``begin``; INDEX_NONE when there is none."""
        cdef uint32_t slot
        pthread_mutex_lock(&self.table.lock)
        slot = find_slot(self.table, id)
        pthread_mutex_unlock(&self.table.lock)
        return slot if slot < self.slots else INDEX_NONE

    def guest_runs(self):
        """Whether a ring is served: the tables may change at any time then."""
        cdef int i
        for i in range(self.device.queue_count):
            if self.device.rings[i].started and self.device.rings[i].enabled:
                return True
        return False

    # ---- the session -----------------------------------------------------------------------------------------------------

    def session(self):
        """(whether there is one, major, minor, INIT flags, max_readahead, max_write)."""
        session = self.device.server.session
        return bool(session.ready), session.major, session.minor, session.flags, session.max_readahead, session.max_write

    def next_ids(self):
        """The next nodeid and the next fh."""
        return self.table.next_id, self.handles.next_id

    # ---- finding ---------------------------------------------------------------------------------------------------------

    def begin(self):
        """Looks at the table as it is now; nothing is checked yet."""
        cdef uint32_t slot
        cdef uint32_t stamped = self.slots
        cdef uint32_t slots
        pthread_mutex_lock(&self.table.lock)
        slots = self.table.slots
        pthread_mutex_unlock(&self.table.lock)
        self._make_room(slots)
        self.slots = slots
        # What was seen of the directories stays good (``steady``): that is what collecting is for.
        for slot in range(stamped, self.slots):
            self.stamps[slot] = 0
        # SAFETY: each array has room for so many items.
        memset(self.status, 0, self.slots)
        memset(self.children, 0, self.slots * sizeof(uint32_t))
        memset(self.sizes, 0, self.slots * sizeof(uint64_t))
        memset(self.mtimes, 0, self.slots * sizeof(int64_t))
        self.inodes = 0
        self.some_lost = False
        with nogil:
            pthread_mutex_lock(&self.table.lock)
            for slot in range(self.slots):
                if self._at(slot).id != 0 and (self._at(slot).nlookup > 0 or self._at(slot).opens > 0):
                    self.status[slot] = UNKNOWN
                    self.inodes += 1
                    self.some_lost |= self._at(slot).flags & (INODE_INVALID | INODE_HOLLOW)
            pthread_mutex_unlock(&self.table.lock)

    cdef int _make_room(self, uint32_t slots) except -1:
        """Room for so many in the arrays, which are kept from collecting for the save: fresh memory costs more than filling it."""
        cdef size_t room = slots + slots // 8 + 1
        if slots < self.room:
            return 0
        self.room = 0
        self.status = <uint8_t *>grown(self.status, room)
        self.children = <uint32_t *>grown(self.children, room * sizeof(uint32_t))
        self.sizes = <uint64_t *>grown(self.sizes, room * sizeof(uint64_t))
        self.mtimes = <int64_t *>grown(self.mtimes, room * sizeof(int64_t))
        self.stamps = <int64_t *>grown(self.stamps, room * sizeof(int64_t))
        self.room = <uint32_t>room
        return 0

    def look_at_folders(self, uint32_t first, uint32_t last, int64_t newest):
        """Notes when the directories in slots ``first`` to ``last`` were changed, before what is in them is looked at.

        A change after ``newest`` (nanoseconds) proves nothing.
        """
        cdef Slots known = self._known()
        last = min(last, self.slots)
        with nogil:
            stamp_folders(&known, first, last, newest)

    def forget_folders(self):
        """What was noted of directories proves nothing any more, nor what was seen in them, by this migration or an earlier one."""
        cdef Slots known = self._known()
        memset(self.stamps, 0, self.slots * sizeof(int64_t))
        unmark(&known, 0, self.slots, False)

    def folders(self):
        """(nodeids, change times in ns) of the directories of which something was noted: whatever is said to be in one of them was
        looked at after that.
        """
        cdef uint32_t slot
        numbers = array("Q")
        changed = array("q")
        for slot in range(self.slots):
            if self.stamps[slot] and self.status[slot] != ABSENT:
                numbers.append(self._at(slot).id)
                changed.append(abs(self.stamps[slot]))
        return numbers, changed

    def take_steady(self):
        """Takes all that is known to be in place still, as ``check`` does for its slots; how many are left to be looked at."""
        cdef Slots known = self._known()
        cdef uint32_t left = 0
        cdef uint32_t slot
        with nogil:
            take_steady(&known, 0, self.slots, False)
            # Slot 0 is the root's.
            for slot in range(1, self.slots):
                left += self.status[slot] == UNKNOWN
        return left

    def check(self, uint32_t first, uint32_t last):
        """Looks whether the inodes of slots ``first`` to ``last`` are where the table says. Several threads may, each its own.

        What was seen in a directory that nobody has changed since is there still, and is not looked at again. How many were.
        """
        cdef Slots known = self._known()
        cdef uint32_t slot
        cdef uint32_t looked = 0
        last = min(last, self.slots)
        with nogil:
            take_steady(&known, first, last, True)
            # Slot 0 is the root's.
            for slot in range(max(first, <uint32_t>1), last):
                if self.status[slot] == UNKNOWN:
                    looked += 1
                    check_slot(&known, slot)
            unmark(&known, first, last, True)
        return looked

    def measure_files(self, uint32_t first, uint32_t last, bint all):
        """Notes size and time of change of the files in slots ``first`` to ``last`` that are in place; unless ``all``, only of
        those that are open or without a handle. The guest is stopped.
        """
        cdef Slots known = self._known()
        last = min(last, self.slots)
        with nogil:
            measure_files(&known, first, last, all)

    def recheck(self):
        """Everything counts as not looked at again: the guest or the host may have moved it meanwhile."""
        cdef uint32_t slot
        for slot in range(self.slots):
            if self.status[slot] != ABSENT:
                self.status[slot] = UNKNOWN

    def unknown(self):
        """The nodeids that were not found, without the root and those that were lost before."""
        cdef uint32_t slot
        cdef uint64_t id
        found = array("Q")
        for slot in range(self.slots):
            if self.status[slot] == UNKNOWN:
                pthread_mutex_lock(&self.table.lock)
                id = self._at(slot).id if not self._at(slot).flags & INODE_INVALID else 0
                pthread_mutex_unlock(&self.table.lock)
                if id > ROOT:
                    found.append(id)
        return found

    def has_record(self, uint64_t id):
        """Whether the inode gets a record in the state."""
        cdef uint32_t slot = self._slot(id)
        return slot != INDEX_NONE and self.status[slot] not in (ABSENT, LEFT_OUT)

    def lost_before(self):
        """[(nodeid, errno, parent, name)] of the inodes that an earlier migration lost.

        The name is empty when nothing would prove at the next destination that its file is the right one.
        """
        cdef uint32_t slot
        if not self.some_lost:
            return []
        return [
            (
                self._at(slot).id, self._at(slot).error, self._at(slot).parent,
                <bytes>self._at(slot).name if self._at(slot).name != NULL and is_provable(self._at(slot)) else b"",
            )
            for slot in range(self.slots)
            if self.status[slot] != ABSENT and self._at(slot).flags & INODE_INVALID
        ]

    def hollow(self):
        """The nodeids of files whose content an earlier migration left behind: what stands for them here is no such file."""
        cdef uint32_t slot
        if not self.some_lost:
            return set()
        return {self._at(slot).id for slot in range(self.slots) if self.status[slot] != ABSENT and self._at(slot).flags & INODE_HOLLOW}

    def where(self, uint64_t id):
        """(parent, name) as last seen; b"" when unknown. Raises KeyError."""
        cdef char name[NAME_ROOM]
        cdef uint64_t parent
        cdef size_t length = 0
        cdef Inode *inode = self._pin(id)
        pthread_mutex_lock(&self.table.lock)
        parent = inode.parent
        if inode.name != NULL and strlen(inode.name) < NAME_ROOM:
            length = strlen(inode.name)
            memcpy(name, inode.name, length)
        pthread_mutex_unlock(&self.table.lock)
        inode_put(self.table, inode)
        return parent, name[:length]

    def facts(self, uint64_t id):
        """(kind, inode number, lookup count, open files, held by an fd). Raises KeyError."""
        cdef Inode *inode = self._pin(id)
        try:
            return inode.kind, inode.ino, inode.nlookup, inode.opens, inode.flags & 1 != 0
        finally:
            inode_put(self.table, inode)

    def open(self, uint64_t id):
        """An O_PATH fd of the inode, the caller's. Raises KeyError, and OSError (ESTALE: it is gone)."""
        cdef Inode *inode = self._pin(id)
        cdef int fd
        try:
            with nogil:
                fd = inode_fd(self.table, inode)
            if fd < 0:
                raise OSError(-fd, os.strerror(-fd))
            return os.dup(fd)
        finally:
            inode_put(self.table, inode)

    def identify(self, int dir_fd, bytes name):
        """The nodeid of what is under ``name`` in ``dir_fd`` (itself when empty), 0 when the guest does not hold it. OSError."""
        cdef Identity identity
        cdef uint16_t mode = 0
        cdef const char *path = name
        cdef int flags = 0 if name else AT_EMPTY_PATH
        cdef Inode *inode = NULL
        cdef uint64_t id = 0
        cdef int result
        cdef int mount
        with nogil:
            result = identify(self.table, dir_fd, path, flags, &identity)
            if result == 0 and identity.handle_size == 0:
                result = identify_stat(self.table, dir_fd, path, flags, &identity, &mode)
            if result == 0:
                pthread_mutex_lock(&self.table.lock)
                mount = find_mount(self.table, identity.mount_id)
                if mount >= 0:
                    inode = find_identity(self.table, &identity, mount)
                    if inode != NULL:
                        id = inode.id
                pthread_mutex_unlock(&self.table.lock)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return id

    def mount_id(self, int fd):
        """The id of the mount that ``fd`` is on, in the form that this table uses; 0 when it can't be told."""
        cdef Identity identity
        cdef uint16_t mode = 0
        identity.mount_id = 0
        if identify(self.table, fd, "", AT_EMPTY_PATH, &identity) == 0 and identity.handle_size == 0:
            identify_stat(self.table, fd, "", AT_EMPTY_PATH, &identity, &mode)
        return identity.mount_id

    def mounts(self):
        """The ids of the mounts on which the guest holds inodes."""
        cdef uint32_t index
        pthread_mutex_lock(&self.table.lock)
        found = [self.table.mounts[index].id for index in range(self.table.mount_count) if self.table.mounts[index].inodes]
        pthread_mutex_unlock(&self.table.lock)
        return found

    def remote_files(self):
        """An fd, the caller's, on each mount of a network file system that the guest holds something on."""
        cdef uint32_t index
        files = []
        pthread_mutex_lock(&self.table.lock)
        try:
            for index in range(self.table.mount_count):
                mount = &self.table.mounts[index]
                if (index == 0 or mount.inodes > 0) and mount.remote:
                    files.append(os.dup(mount.sync_fd))
        finally:
            pthread_mutex_unlock(&self.table.lock)
        return files

    def on_mounts(self, set numbers):
        """[(nodeid, id of its mount, whether its directory lies on another)] of the inodes on these mounts (ids as ``mounts`` has
        them). The guest is stopped.
        """
        cdef Inode *inode
        cdef uint32_t slot
        cdef uint32_t parent
        found = []
        for slot in range(self.slots):
            inode = self._at(slot)
            if self.status[slot] == ABSENT or inode.flags & INODE_INVALID or self.table.mounts[inode.mount].id not in numbers:
                continue
            parent = find_slot(self.table, inode.parent)
            found.append((
                inode.id, self.table.mounts[inode.mount].id, parent == INDEX_NONE or self._at(parent).mount != inode.mount,
            ))
        return found

    def misplace(self, numbers):
        """These inodes are not where they were found."""
        cdef uint32_t slot
        for number in numbers:
            slot = self._slot(number)
            if slot != INDEX_NONE and self.status[slot] != ABSENT:
                self.status[slot] = UNKNOWN

    def found(self, uint64_t id, uint64_t parent, bytes name):
        """Notes where an inode is; whether that can be said by a parent that the guest holds. It is looked at at once."""
        cdef Slots known
        cdef uint32_t slot
        cdef Inode *inode = self._pin(id)
        inode_hint(self.table, inode, parent, name)
        inode_put(self.table, inode)
        slot = self._slot(id)
        if slot == INDEX_NONE:
            return False
        known = self._known()
        with nogil:
            check_slot(&known, slot)
        return self.status[slot] == AT_PATH or self.status[slot] == AT_ODD_PATH

    def leave_out(self, numbers):
        """Gives these inodes no record in the state; the set of those with whom that can be (no other one has them as parent)."""
        cdef uint32_t slot
        cdef uint32_t parent
        cdef set left = set()
        cdef uint8_t *is_parent
        if not numbers:
            return left
        is_parent = <uint8_t *>calloc(self.slots + 1, 1)
        if is_parent == NULL:
            raise MemoryError
        try:
            for slot in range(self.slots):
                if self.status[slot] in (AT_PATH, AT_ODD_PATH):
                    parent = find_slot(self.table, self._at(slot).parent)
                    if parent < self.slots:
                        is_parent[parent] = 1
            for number in numbers:
                slot = self._slot(number)
                if slot != INDEX_NONE and not is_parent[slot]:
                    self.status[slot] = LEFT_OUT
                    left.add(number)
        finally:
            free(is_parent)
        return left

    # ---- writing (the guest is stopped) ----------------------------------------------------------------------------------

    cdef int _count_children(self) except -1:
        """Drops the Path of whatever does not lead to the root, and counts each parent's children by Path."""
        cdef uint32_t slot
        cdef uint32_t at
        cdef uint32_t mark
        # Neighbours mostly lie in one directory.
        cdef uint64_t parent = 0
        cdef uint32_t parent_slot = INDEX_NONE
        cdef uint32_t *seen = <uint32_t *>calloc(self.slots, sizeof(uint32_t))
        if seen == NULL:
            raise MemoryError
        # seen: 0 not yet, else the (slot + 1) from which the walk came that met it.
        for slot in range(self.slots):
            self.children[slot] = 0
        for slot in range(self.slots):
            at = slot
            mark = slot + 1
            while at != INDEX_NONE and seen[at] == 0 and self.status[at] in (AT_PATH, AT_ODD_PATH):
                seen[at] = mark
                if self._at(at).parent != parent:
                    parent = self._at(at).parent
                    parent_slot = find_slot(self.table, parent)
                at = parent_slot if parent_slot < self.slots else INDEX_NONE
            if at != INDEX_NONE and seen[at] == mark and self.status[at] in (AT_PATH, AT_ODD_PATH):
                self.status[at] = UNKNOWN
        free(seen)
        for slot in range(self.slots):
            if self.status[slot] in (AT_PATH, AT_ODD_PATH):
                if self._at(slot).parent != parent:
                    parent = self._at(slot).parent
                    parent_slot = find_slot(self.table, parent)
                at = parent_slot
                if at >= self.slots or self.status[at] in (ABSENT, LEFT_OUT):
                    self.status[slot] = UNKNOWN
                elif self.status[slot] == AT_PATH:
                    self.children[at] += 1
        return 0

    def encode_inodes(self, dict others, bint by_handle, set handle_mounts, bint with_handles, bint root_handle, bint trailed):
        """The ``inodes`` of a state, in pieces: count and records.

        ``others``: location of those not found in a parent, already encoded. ``by_handle``: FileHandle locations, on the mounts
        of ``handle_mounts``. ``with_handles``: handles for comparison, ``root_handle``: at least the root's.
        """
        cdef Slots known
        self._count_children()
        known = self._known()
        return encode_slots(self, &known, others, by_handle, handle_mounts, with_handles, root_handle, trailed)

    def goes_by_handle(self, uint64_t id, set handle_mounts):
        """Whether encode_inodes, given the same mounts, locates the inode by its handle. Raises KeyError."""
        cdef Inode *inode = self._pin(id)
        try:
            return (
                inode.handle_size > 0 and not inode.flags & INODE_INVALID
                and self.table.mounts[inode.mount].id in handle_mounts
            )
        finally:
            inode_put(self.table, inode)

    def odd_names(self):
        """[(nodeid, parent, name)] of inodes whose names are not UTF-8."""
        cdef uint32_t slot
        return [
            (self._at(slot).id, self._at(slot).parent, <bytes>self._at(slot).name)
            for slot in range(self.slots)
            if self.status[slot] == AT_ODD_PATH
        ]

    def identities(self, list mounts, bint named, uint32_t at_once, set handleless):
        """The payloads of InodeIdentities records of at most ``at_once`` inodes, one by one.

        ``mounts``: ids in the order of the Mounts record; ``named``: parents and names too; ``handleless``: nodeids of inodes
        whose handles will lead nowhere at the destination.
        """
        cdef Slots known = self._known()
        return identity_payloads(self, &known, mounts, named, at_once, handleless)

    def note_file(self, uint64_t id, uint64_t size, int64_t mtime):
        """Size and time of a file that was found some other way than under its name."""
        cdef uint32_t slot = self._slot(id)
        if slot != INDEX_NONE:
            self.sizes[slot] = size
            self.mtimes[slot] = mtime

    def open_files(self):
        """[(fh, nodeid, flags, fd or -1, errno, is a directory, where its fd stands)], by fh. The fds stay the table's."""
        cdef uint32_t slot
        cdef Handle *handle
        found = []
        pthread_mutex_lock(&self.handles.lock)
        for slot in range(self.handles.slots):
            handle = self._handle_at(slot)
            if handle.state & HANDLE_USED and not handle.state & HANDLE_RELEASED:
                found.append((
                    handle.id, handle.inode.id, handle.flags, handle.fd, handle.error, handle.state & HANDLE_DIR != 0,
                    handle.dir.position if handle.dir != NULL else 0,
                ))
        pthread_mutex_unlock(&self.handles.lock)
        found.sort()
        return found

    def encode_files(self, int without):
        """The ``handles`` of a state: count and records; of the flags, those of ``without`` are left out."""
        return encode_files(self.handles, without)

    def carried(self, uint64_t fh):
        """[(cookie, inode number, kind, name)] that a half-read directory brought along from an earlier source."""
        cdef uint32_t slot
        cdef uint32_t index
        cdef Handle *handle
        for slot in range(self.handles.slots):
            handle = self._handle_at(slot)
            if handle.state & HANDLE_USED and handle.id == fh and handle.dir != NULL:
                return [
                    (
                        handle.dir.carried[index].cookie, handle.dir.carried[index].ino, handle.dir.carried[index].type,
                        <bytes>handle.dir.carried[index].name,
                    )
                    for index in range(handle.dir.carried_count)
                ]
        return []

    def rest_of(self, uint64_t fh, size_t most_bytes):
        """What the guest may still ask for of a directory that it reads: (offset of the first entry, [(cookie, inode number,
        kind, name)]), None when it is more than ``most_bytes``. KeyError, OSError.
        """
        return rest_of(self.handles, self.table, fh, most_bytes)


cdef bint is_provable(const Inode *inode) noexcept nogil:
    """Of a lost inode: whether its file handle at the source is known, or it stands for what lies beneath a missing mount."""
    return inode.handle_size > 0 or inode.ino != 0
