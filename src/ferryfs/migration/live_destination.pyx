"""Filling a device's tables from a state: inodes under the numbers that the guest knows them by, open files, the session.

For a device whose rings are stopped. An inode without look-ups of its own, which only leads to others, is pinned until ``finish``
or ``clear``: it stays as long as it is needed and not longer.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EIO, ENFILE, ENOMEM, EOPNOTSUPP, ESTALE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

import os
from array import array
from concurrent.futures import ThreadPoolExecutor

from ferryfs.engine.device cimport Device
from ferryfs.engine.handles cimport (
    HANDLE_CHUNK, HANDLE_DIR, HANDLE_INVALID, HANDLE_USED, DirStream, Handle, HandleTable, free_slot, take_slot,
)
from ferryfs.engine.index cimport INDEX_NONE, hash_u64, index_add
from ferryfs.engine.identity cimport identify, identify_stat
from ferryfs.engine.inode_fds cimport cache_fd, fds_release, fds_reserve, inode_fd, inode_open
from ferryfs.engine.inodes cimport (
    CHUNK, INLINE_HANDLE, INODE_HOLLOW, INODE_INVALID, INODE_KEEPS_FD, INODE_LOOKED_UP, KIND_SHIFT, Identity, Inode, InodeTable,
    fill_slot, find_slot, inode_handle, inode_opened, inode_put, set_hint,
)
from ferryfs.engine.inodes cimport take_slot as take_inode_slot
from ferryfs.engine.mounts cimport mount_of, unuse_mount
from ferryfs.engine.ops_open cimport host_flags, kept_flags
from ferryfs.engine.ops_session cimport session_end, wanted
from ferryfs.engine.sys cimport (
    AT_EMPTY_PATH, MAX_HANDLE_SIZE, O_CLOEXEC, O_DIRECTORY, O_RDONLY, S_IFREG, STATX_BASIC_STATS, SYS_statx, Statx, close, syscall,
)
from ferryfs.engine.threads cimport pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock
from ferryfs.migration.half_read cimport carry

from ferryfs.migration import deferred, refill


cdef object failure(int result):
    return OSError(result, os.strerror(result))


cdef class LiveDestination:
    """The tables of a device that a state is loaded into."""

    cdef Device device
    cdef InodeTable *table
    cdef HandleTable *handles
    cdef object pinned

    def __cinit__(self, Device device):
        self.device = device
        self.table = &device.server.inodes
        self.handles = &device.server.handles
        self.pinned = array("Q")

    cdef Inode *_at(self, uint32_t slot) noexcept nogil:
        return &self.table.chunks[slot // CHUNK][slot % CHUNK]

    cdef Inode *_inode(self, uint64_t id) except NULL:
        """A restored inode (or the root): nothing else runs that could end it. Raises KeyError."""
        cdef Inode *inode = NULL
        cdef uint32_t slot
        pthread_mutex_lock(&self.table.lock)
        slot = find_slot(self.table, id)
        if slot != INDEX_NONE:
            inode = self._at(slot)
        pthread_mutex_unlock(&self.table.lock)
        if inode == NULL:
            raise KeyError(id)
        return inode

    def clear(self):
        """Drops everything: before a load, and after one that failed."""
        self._unpin()
        with nogil:
            session_end(&self.device.server)

    def restore(self, uint64_t id, uint64_t lookups, int fd, uint64_t parent, bytes name, expected):
        """Files what ``fd`` (O_PATH; taken over) is under ``id``; its file type (S_IFMT >> 12). Raises OSError.

        ``expected`` is None or the (handle_type, handle) that it must have: ESTALE when it has another one.
        """
        cdef Identity identity
        cdef const char *hint = name
        cdef bint hinted = len(name) > 0
        cdef const uint8_t *handle = NULL
        cdef Py_ssize_t handle_size = 0
        cdef int handle_type = 0
        cdef int result
        cdef uint16_t mode = 0
        if expected is not None:
            handle_type, reference = expected
            handle = <const uint8_t *><const char *><bytes>reference
            handle_size = len(<bytes>reference)
        with nogil:
            result = identify(self.table, fd, "", AT_EMPTY_PATH, &identity)
            if result == 0 and handle_size > 0 and identity.handle_size > 0:
                if (
                    identity.handle_type != handle_type or identity.handle_size != <uint32_t>handle_size
                    or memcmp(identity.handle, handle, handle_size) != 0
                ):
                    result = -ESTALE
            if result < 0:
                close(fd)
            else:
                result = self._restore(&identity, id, lookups, fd, parent, hint, hinted, &mode)
        if result < 0:
            raise failure(-result)
        if lookups == 0:
            self.pinned.append(id)
        return mode >> 12

    cdef int _restore(
        self, Identity *identity, uint64_t id, uint64_t lookups, int fd, uint64_t parent, const char *name, bint hinted,
        uint16_t *mode
    ) noexcept nogil:
        cdef Inode *inode
        cdef Statx st
        cdef uint32_t slot = 0
        cdef int mount
        cdef bint nameless = False
        cdef int result = identify_stat(self.table, fd, "", AT_EMPTY_PATH, identity, mode)
        if result < 0:
            close(fd)
            return result
        if syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &st) == 0:
            nameless = st.nlink == 0
        mount = mount_of(self.table, identity, fd, mode[0])
        if mount < 0:
            close(fd)
            return mount
        pthread_mutex_lock(&self.table.lock)
        if self.table.mounts[mount].fd < 0 and self.table.must_use_handles:
            result = -EOPNOTSUPP
        elif self.table.mounts[mount].fd < 0 and self.table.fds >= self.table.max_fds:
            result = -ENFILE
        else:
            slot = take_inode_slot(self.table)
            result = -ENOMEM if slot == INDEX_NONE else fill_slot(self.table, slot, identity, mount, mode[0], id)
        if result < 0:
            unuse_mount(self.table, mount)
        else:
            inode = self._at(slot)
            inode.flags = INODE_LOOKED_UP
            inode.nlookup = lookups
            inode.pins = 1 if lookups == 0 else 0
            if hinted:
                set_hint(inode, parent, name)
            # Without a name it lives as long as its fd, which a cached one need not do.
            if self.table.mounts[mount].fd < 0 or (nameless and self.table.fds < self.table.max_fds // 2):
                inode.fd = fd
                inode.flags |= INODE_KEEPS_FD
                self.table.fds += 1
                fd = -1
            else:
                fd = cache_fd(self.table, inode, fd)
        pthread_mutex_unlock(&self.table.lock)
        if fd >= 0:
            close(fd)
        return result

    def restore_lost(self, uint64_t id, uint64_t lookups, int error, uint64_t parent, bytes name, expected):
        """Files an inode that can't be had: every access answers ``error``. Raises OSError.

        ``expected`` is None or the (file type, handle type, handle) that the next destination has to find under its name.
        """
        cdef const uint8_t *handle = NULL
        cdef Py_ssize_t handle_size = 0
        cdef int handle_type = 0
        cdef int kind = 0
        cdef uint8_t *store
        cdef uint32_t slot
        cdef Inode *inode
        cdef int result = 0
        if expected is not None and 0 < len(expected[2]) <= MAX_HANDLE_SIZE:
            kind, handle_type, reference = expected
            handle = <const uint8_t *><const char *><bytes>reference
            handle_size = len(<bytes>reference)
        pthread_mutex_lock(&self.table.lock)
        slot = take_inode_slot(self.table)
        if slot == INDEX_NONE:
            result = ENOMEM
        else:
            inode = self._at(slot)
            memset(inode, 0, sizeof(Inode))
            inode.fd = -1
            if index_add(&self.table.by_id, hash_u64(id), slot) < 0:
                inode.parent = self.table.free_slot
                self.table.free_slot = <uint64_t>slot + 1
                result = ENOMEM
            else:
                inode.id = id
                inode.nlookup = lookups
                inode.pins = 1 if lookups == 0 else 0
                inode.flags = INODE_INVALID
                inode.error = <uint8_t>(error if 0 < error < 256 else EIO)
                self.table.count += 1
                if name:
                    set_hint(inode, parent, name)
                store = inode.handle_store
                if handle_size > INLINE_HANDLE:
                    store = <uint8_t *>malloc(handle_size)
                    (<uint8_t **>inode.handle_store)[0] = store
                if handle_size > 0 and store != NULL:
                    # SAFETY: INLINE_HANDLE bytes are in the inode, and more were just allocated.
                    memcpy(store, handle, handle_size)
                    inode.handle_size = <uint8_t>handle_size
                    inode.handle_type = handle_type
                    inode.kind = <uint8_t>kind
        pthread_mutex_unlock(&self.table.lock)
        if result:
            raise failure(result)
        if lookups == 0:
            self.pinned.append(id)

    def restore_veil(self, uint64_t id, uint64_t lookups, int fd, int error, uint64_t parent, bytes name):
        """As restore_lost, and what ``fd`` (O_PATH; taken over) is answers ``error`` as well when it is looked up. Raises OSError."""
        cdef Inode *inode
        self.restore(id, lookups, fd, parent, name, None)
        inode = self._inode(id)
        pthread_mutex_lock(&self.table.lock)
        inode.flags |= INODE_INVALID
        inode.error = <uint8_t>(error if 0 < error < 256 else EIO)
        pthread_mutex_unlock(&self.table.lock)

    def hollow(self, uint64_t id):
        """A restored inode stands for one whose content is lost: it has its attributes, and can't be opened. Raises KeyError."""
        cdef Inode *inode = self._inode(id)
        pthread_mutex_lock(&self.table.lock)
        inode.flags |= INODE_HOLLOW
        pthread_mutex_unlock(&self.table.lock)

    def defer(self, records, opened, own_mount):
        """Files what can wait for its first use, as ``deferred.defer``; how many."""
        return deferred.defer(records, self.device, opened, own_mount)

    def restore_records(self, records, compare, same, mount_fds):
        """Restores what ``bulk.Records`` can; what only leads to others is pinned, as by restore."""
        threads = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(threads, "migration-restore") as pool:
            refill.restore(records, self.device, compare, same, mount_fds, pool.map, threads)
        self.pinned.extend(records.pinned())

    def kind(self, uint64_t id):
        """``st_mode >> 12`` of a restored inode; 0 when it is lost or not there."""
        cdef Inode *inode
        try:
            inode = self._inode(id)
        except KeyError:
            return 0
        return 0 if inode.flags & INODE_INVALID else inode.kind

    def open_path(self, uint64_t id):
        """An O_PATH fd of a restored inode or the root, the caller's. Raises KeyError, OSError."""
        cdef Inode *inode = self._inode(id)
        cdef int fd
        # inode_fd gives an fd only to those who have the inode pinned, and without this one it may be closed in between.
        inode.pins += 1
        fd = inode_fd(self.table, inode)
        try:
            if fd < 0:
                raise failure(-fd)
            return os.dup(fd)
        finally:
            inode_put(self.table, inode)

    def handle_of(self, uint64_t id):
        """(handle_type, handle) by which a restored inode is known; the handle is empty where there is none. Raises KeyError."""
        cdef Inode *inode = self._inode(id)
        return inode.handle_type, PyBytes_FromStringAndSize(<const char *>inode_handle(inode), inode.handle_size)

    def reopen(self, uint64_t fh, uint64_t id, int flags, bint directory):
        """Opens a restored inode again as ``fh``, with the guest's flags. Raises KeyError, OSError."""
        cdef Inode *inode = self._inode(id)
        cdef int host
        cdef int fd
        cdef int result
        host = O_RDONLY | O_DIRECTORY | O_CLOEXEC if directory else host_flags(&self.device.server, <uint32_t>flags)
        result = fds_reserve(self.table)
        if result < 0:
            raise failure(-result)
        inode.pins += 1
        with nogil:
            fd = inode_open(self.table, inode, host)
            inode_put(self.table, inode)
        if fd < 0:
            fds_release(self.table)
            raise failure(-fd)
        self._file(fh, inode, fd, flags, directory, 0)

    def reopen_files(self, handles, int without):
        """Opens again what of ``handles`` (state.Handle) are files in good order, less the flags ``without``; the rest, in a list."""
        cdef Inode *inode
        cdef uint32_t slot
        cdef uint64_t id
        cdef int flags
        cdef int host
        cdef int fd
        left = []
        for handle in handles:
            id = handle.inode
            flags = handle.flags
            flags &= ~without
            fd = -1
            with nogil:
                pthread_mutex_lock(&self.table.lock)
                slot = find_slot(self.table, id)
                inode = self._at(slot) if slot != INDEX_NONE else NULL
                if inode != NULL and (inode.flags & INODE_INVALID or inode.kind != S_IFREG >> KIND_SHIFT):
                    inode = NULL
                if inode != NULL:
                    inode.pins += 1
                pthread_mutex_unlock(&self.table.lock)
                if inode != NULL:
                    host = host_flags(&self.device.server, <uint32_t>flags)
                    if fds_reserve(self.table) == 0:
                        fd = inode_open(self.table, inode, host)
                        if fd < 0:
                            fds_release(self.table)
                    inode_put(self.table, inode)
            if fd >= 0:
                self._file(handle.id, inode, fd, flags, False, 0)
            else:
                left.append(handle)
        return left

    def adopt(self, uint64_t fh, uint64_t id, int fd, int flags):
        """Takes over ``fd``, open already, as ``fh``. Raises KeyError, OSError (then ``fd`` is closed)."""
        cdef Inode *inode = self._inode(id)
        cdef int result = fds_reserve(self.table)
        if result < 0:
            close(fd)
            raise failure(-result)
        self._file(fh, inode, fd, flags, False, 0)

    def reopen_lost(self, uint64_t fh, uint64_t id, int flags, bint directory, int error):
        """Files an open file that can't be had: every access answers ``error``. Raises KeyError, OSError."""
        self._file(fh, self._inode(id), -1, flags, directory, error if 0 < error < 256 else EIO)

    cdef int _file(self, uint64_t fh, Inode *inode, int fd, int flags, bint directory, int error) except -1:
        cdef Handle *handle
        cdef DirStream *dir = NULL
        cdef uint32_t slot
        if directory:
            dir = <DirStream *>calloc(1, sizeof(DirStream))
            if dir == NULL:
                raise MemoryError
            pthread_mutex_init(&dir.lock, NULL)
        pthread_mutex_lock(&self.handles.lock)
        slot = take_slot(self.handles)
        if slot != INDEX_NONE and index_add(&self.handles.by_id, hash_u64(fh), slot) < 0:
            free_slot(self.handles, slot)
            slot = INDEX_NONE
        if slot == INDEX_NONE:
            pthread_mutex_unlock(&self.handles.lock)
            free(dir)
            if fd >= 0:
                close(fd)
                fds_release(self.table)
            raise MemoryError
        handle = &self.handles.chunks[slot // HANDLE_CHUNK][slot % HANDLE_CHUNK]
        handle.id = fh
        handle.inode = inode
        handle.dir = dir
        handle.fd = fd
        handle.flags = kept_flags(<uint32_t>flags, directory)
        handle.users = 0
        handle.state = HANDLE_USED | (HANDLE_DIR if directory else 0) | (HANDLE_INVALID if fd < 0 else 0)
        handle.error = <uint8_t>error
        self.handles.count += 1
        inode_opened(self.table, inode)
        pthread_mutex_unlock(&self.handles.lock)
        return 0

    def carry(self, uint64_t fh, list entries):
        """Gives the open directory ``fh`` entries [(cookie, inode number, kind, name)]; the first stands for the place before them
        and has no name. Raises KeyError.
        """
        cdef uint32_t slot
        cdef Handle *handle
        for slot in range(self.handles.slots):
            handle = &self.handles.chunks[slot // HANDLE_CHUNK][slot % HANDLE_CHUNK]
            if handle.state & HANDLE_USED and handle.id == fh and handle.dir != NULL and handle.dir.carried == NULL:
                break
        else:
            raise KeyError(fh)
        carry(handle.dir, entries)

    def settings(self):
        """The INIT flags that this daemon grants when a guest offers them all."""
        return wanted(&self.device.server)

    def finish(self, uint64_t next_id, uint64_t next_fh, bint ready, tuple session):
        """Ends a load that went well: numbers, session (major, minor, flags, max_readahead, max_write), and the pins go."""
        self.table.next_id = next_id
        # Never behind our own first one, which a state of virtiofsd without open files may be.
        self.handles.next_id = next_fh
        major, minor, flags, max_readahead, max_write = session
        self.device.server.session.major = major
        self.device.server.session.minor = minor
        self.device.server.session.flags = flags
        self.device.server.session.max_readahead = max_readahead
        self.device.server.session.max_write = max_write
        self.device.server.session.ready = ready
        self._unpin()

    cdef int _unpin(self) except -1:
        cdef uint64_t[:] ids = self.pinned
        cdef Py_ssize_t i
        cdef uint32_t slot
        with nogil:
            for i in range(ids.shape[0]):
                pthread_mutex_lock(&self.table.lock)
                slot = find_slot(self.table, ids[i])
                pthread_mutex_unlock(&self.table.lock)
                if slot != INDEX_NONE:
                    inode_put(self.table, self._at(slot))
        ids = None
        self.pinned = array("Q")
        return 0
