"""The device as the vhost-user layer drives it. See device.pyi for the contract.

Whatever changes memory or a ring pauses the rings concerned first, so that no request and no leader sees a change under way.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

import os
import resource

from ferryfs.errors import FrontendError, SetupError
from ferryfs.passthrough.config import CachePolicy, HandleMode, Ternary

from ferryfs.engine.events cimport events_close, events_drain, events_init
from ferryfs.engine.handles cimport handles_close, handles_init
from ferryfs.engine.inode_fds cimport fds_make_room
from ferryfs.engine.inodes cimport CLOCK_SIZE_MAX, inodes_close, inodes_init
from ferryfs.engine.ops_session cimport session_end
from ferryfs.engine.policy cimport policy_free, policy_init
from ferryfs.engine.rings cimport (
    ring_close, ring_finish, ring_init, ring_pause, ring_replace_call, ring_replace_err, ring_resume, ring_set_kick,
)
from ferryfs.engine.server cimport (
    CACHE_ALWAYS, CACHE_AUTO, CACHE_METADATA, CACHE_NEVER, TERNARY_ALWAYS, TERNARY_AUTO, TERNARY_NEVER, Server, Settings,
)
from ferryfs.engine.sys cimport F_GETFL, O_NONBLOCK, fcntl, getegid, geteuid
from ferryfs.engine.workers cimport DEFAULT_BLOCKED, MAX_RINGS, Pool, Ring, pool_close, pool_init
from ferryfs.ring.memory cimport GuestMemory
from ferryfs.ring.queue cimport MAX_QUEUE_SIZE, VRING_F_LOG, queue_attach, queue_detach

CACHES = {
    CachePolicy.NEVER: CACHE_NEVER, CachePolicy.METADATA: CACHE_METADATA, CachePolicy.AUTO: CACHE_AUTO,
    CachePolicy.ALWAYS: CACHE_ALWAYS,
}
# How long the guest may believe an entry and its attributes, in seconds, as virtiofsd has it.
VALIDITY = {CachePolicy.NEVER: 0, CachePolicy.METADATA: 86400, CachePolicy.AUTO: 1, CachePolicy.ALWAYS: 86400}
TERNARIES = {Ternary.NEVER: TERNARY_NEVER, Ternary.AUTO: TERNARY_AUTO, Ternary.ALWAYS: TERNARY_ALWAYS}

FEATURE_EVENT_IDX = 1 << 29         # VIRTIO_RING_F_EVENT_IDX
FEATURE_LOG_ALL = 1 << 26           # VHOST_F_LOG_ALL

# File descriptors that are never given to the guest: the cache of them, and what the next three are for.
cdef enum:
    FDS_OF_RING = 5                 # kick, call, err, and two to sleep on
    FDS_OF_WORKER = 2               # for a moment
    FDS_OF_DAEMON = 60              # sockets, log, /proc, the share, a message's
SMALLEST_SHARE = 16


cdef int fill_settings(Settings *settings, config) except -1:
    memset(settings, 0, sizeof(Settings))
    settings.cache = CACHES[config.cache]
    settings.entry_seconds = VALIDITY[config.cache]
    settings.negative_seconds = int(config.negative_timeout)
    settings.negative_nanoseconds = int((config.negative_timeout % 1) * 1_000_000_000)
    settings.readonly = config.readonly
    settings.writeback = config.writeback
    settings.allow_direct_io = config.allow_direct_io
    settings.allow_mmap = config.allow_mmap
    settings.readdirplus = config.readdirplus
    settings.announce_submounts = config.announce_submounts
    settings.xattr = config.xattr
    settings.posix_acl = TERNARIES[config.posix_acl] if config.xattr else TERNARY_NEVER
    settings.security_label = TERNARIES[config.security_label] if config.xattr else TERNARY_NEVER
    settings.killpriv_v2 = config.killpriv_v2
    settings.preserve_noatime = config.preserve_noatime
    settings.allow_set_flags = config.allow_set_flags
    return 0


cdef class Device:

    def __cinit__(self, config, int root_fd, int proc_self_fd, int queue_count):
        cdef int result
        cdef int i
        self.rings = NULL
        self.opened = False
        self.closed = False
        memset(&self.server, 0, sizeof(Server))
        memset(&self.pool, 0, sizeof(Pool))
        self.server.events.fd = -1
        self.memory = GuestMemory()
        if not 1 <= queue_count <= MAX_RINGS:
            raise SetupError(f"{queue_count} virtqueues are wanted, but 1 to {MAX_RINGS} can be had")
        self.queue_count = queue_count
        self.addresses = [None] * queue_count
        fill_settings(&self.server.settings, config)
        self.server.proc_fd = proc_self_fd
        self.server.own_uid = geteuid()
        self.server.own_gid = getegid()
        policy_init(&self.server.policy, config)
        events_init(&self.server.events)
        handles_init(&self.server.handles)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY or limit > 1 << 30:
            limit = 1 << 30
        cached = min(CLOCK_SIZE_MAX, limit // 8)
        fds_make_room(root_fd, limit)
        own_root = os.dup(root_fd)
        result = inodes_init(
            &self.server.inodes, own_root, proc_self_fd, cached, config.handles != HandleMode.NEVER,
            config.handles == HandleMode.MANDATORY,
        )
        self.opened = True
        if result < 0:
            self.release()
            if config.handles == HandleMode.MANDATORY:
                raise SetupError(
                    "the shared directory's file handles can't be opened, as --inode-file-handles=mandatory asks: the daemon needs "
                    "CAP_DAC_READ_SEARCH (--modcaps=+dac_read_search) and a file system that has them; or take =prefer"
                )
            raise SetupError(f"the shared directory can't be looked at: {os.strerror(-result)}")
        blocked = config.thread_pool_size or DEFAULT_BLOCKED
        reserved = FDS_OF_DAEMON + FDS_OF_RING * queue_count + FDS_OF_WORKER * (queue_count + blocked)
        share = max(limit - cached - reserved, SMALLEST_SHARE)
        self.server.inodes.max_fds = min(share, config.guest_fd_limit) if config.guest_fd_limit else share
        self.rings = <Ring *>calloc(queue_count, sizeof(Ring))
        if self.rings == NULL:
            raise MemoryError
        pool_init(&self.pool, &self.server, &self.memory.table, self.rings, queue_count, blocked)
        for i in range(queue_count):
            result = ring_init(&self.rings[i], &self.pool, i)
            if result < 0:
                raise SetupError(f"virtqueue {i} can't be set up: {os.strerror(-result)}")

    def __dealloc__(self):
        self.release()

    @property
    def events_fd(self):
        return self.server.events.fd

    @property
    def session_ready(self):
        """Whether a guest has a session (INIT was answered)."""
        return bool(self.server.session.ready)

    @property
    def session_flags(self):
        """The INIT flags that hold, both words."""
        return self.server.session.flags

    @property
    def inode_count(self):
        """Inodes that the guest holds, the root included."""
        return self.server.inodes.count

    @property
    def handle_count(self):
        """Files and directories that the guest has open."""
        return self.server.handles.count

    @property
    def uses_file_handles(self):
        """Whether the shared directory's inodes are held by file handle."""
        return self.server.inodes.mounts != NULL and self.server.inodes.mounts[0].fd >= 0

    # ---- helpers ----------------------------------------------------------------------------------------------------------

    cdef Ring *ring(self, index) except NULL:
        if self.closed:
            raise SetupError("the device is closed")
        if not 0 <= index < self.queue_count:
            raise FrontendError(f"virtqueue {index} does not exist: there are {self.queue_count}")
        return &self.rings[<int>index]

    cdef int pause_all(self) except -1:
        cdef int i
        if self.closed:
            raise SetupError("the device is closed")
        with nogil:
            for i in range(self.queue_count):
                ring_pause(&self.rings[i])
        return 0

    cdef int resume(self, int index) except -1:
        cdef int result
        with nogil:
            result = ring_resume(&self.rings[index])
        if result < 0:
            raise SetupError(f"virtqueue {index} can't run: no thread can be started; raise the limit of processes (ulimit -u)")
        return 0

    cdef int resume_all(self) except -1:
        for i in range(self.queue_count):
            self.resume(i)
        return 0

    cdef int attach(self, int index, bint fresh, bint may_lack) except -1:
        """Finds the windows of a paused ring, if its addresses and any memory are known.

        `fresh`: it is about to be started, so its place is taken from its memory. `may_lack`: without its memory it waits.
        """
        cdef Ring *ring = &self.rings[index]
        cdef uint64_t desc, used, avail, log
        cdef int wrong
        if self.addresses[index] is None or ring.queue.num == 0 or len(self.memory) == 0:
            ring.attached = False
            queue_detach(&ring.queue)
            return 0
        desc, used, avail, log, log_used = self.addresses[index]
        ring.queue.used_log = log
        ring.queue.log_used = log_used
        fresh = fresh or not ring.placed
        wrong = queue_attach(&ring.queue, self.memory, desc, avail, used, fresh)
        ring.attached = wrong == 0
        if not wrong:
            ring.placed = True
            # What it was told of while the ring was without its memory has not gone out.
            ring.unannounced += ring.started
        elif not may_lack:
            what, address = (("descriptor table", desc), ("avail ring", avail), ("used ring", used))[wrong - 1]
            raise FrontendError(
                f"the {what} of virtqueue {index} at {address:#x} is not aligned or not in the memory that was given"
            )
        return 0

    # ---- memory -----------------------------------------------------------------------------------------------------------

    def _change_memory(self, change, bint may_lack):
        """Applies a change while every ring is paused, and finds the rings' windows anew.

        `may_lack`: a ring whose memory is not there waits until it comes. QEMU takes all regions that change away before it adds
        them again, also on the guest's behalf, who can have its memory's layout changed (the chipset's PAM registers).
        """
        self.pause_all()
        try:
            try:
                change()
            finally:
                for i in range(self.queue_count):
                    queue_detach(&self.rings[i].queue)
            for i in range(self.queue_count):
                if self.rings[i].started or self.rings[i].attached:
                    self.attach(i, False, may_lack)
        except BaseException:
            for i in range(self.queue_count):
                self.rings[i].attached = False
                queue_detach(&self.rings[i].queue)
            raise
        finally:
            self.resume_all()

    def set_mem_table(self, regions):
        self._change_memory(lambda: self.memory.set_table(regions), False)

    def add_mem_region(self, region):
        self._change_memory(lambda: self.memory.add(*region), True)

    def remove_mem_region(self, guest_addr, size, user_addr):
        self._change_memory(lambda: self.memory.remove(guest_addr, size, user_addr), True)

    def set_log(self, fd, mmap_offset, size):
        self.pause_all()
        try:
            self.memory.set_log(fd, mmap_offset, size)
        finally:
            self.resume_all()

    def set_features(self, features):
        cdef int i
        self.pause_all()
        self.memory.set_log_on(bool(features & FEATURE_LOG_ALL))
        for i in range(self.queue_count):
            self.rings[i].queue.event_idx = bool(features & FEATURE_EVENT_IDX)
        self.resume_all()

    # ---- rings ------------------------------------------------------------------------------------------------------------

    def set_vring_num(self, index, num):
        cdef Ring *ring = self.ring(index)
        if not 0 < num <= MAX_QUEUE_SIZE or num & (num - 1):
            raise FrontendError(f"virtqueue {index} can't have {num} entries: a power of two up to {MAX_QUEUE_SIZE} is needed")
        if ring.started and num != ring.queue.num:
            raise FrontendError(f"the size of virtqueue {index} can't change while it runs")
        ring.queue.num = num

    def set_vring_addr(self, index, desc, used, avail, log_addr, flags):
        cdef Ring *ring = self.ring(index)
        with nogil:
            ring_pause(ring)
        try:
            self.addresses[index] = (desc, used, avail, log_addr, bool(flags & VRING_F_LOG))
            self.attach(index, not ring.started, False)
        finally:
            self.resume(index)

    def set_vring_base(self, index, base):
        cdef Ring *ring = self.ring(index)
        if ring.started:
            raise FrontendError(f"the base of virtqueue {index} can't be set while it runs")
        ring.queue.last_avail = base & 0xffff

    def set_vring_kick(self, index, fd):
        cdef Ring *ring = self.ring(index)
        cdef int own = os.dup(fd) if fd >= 0 else -1
        cdef int result
        with nogil:
            ring_pause(ring)
            result = ring_set_kick(ring, own)
        try:
            if result < 0:
                raise FrontendError(f"the kick fd of virtqueue {index} can't be waited for: {os.strerror(-result)}")
            if not ring.started:
                self.attach(index, True, False)
            ring.started = True
            ring.broken = False
        finally:
            self.resume(index)

    def set_vring_call(self, index, fd):
        cdef Ring *ring = self.ring(index)
        cdef int own = os.dup(fd) if fd >= 0 else -1
        cdef bint may_block = own >= 0 and not fcntl(own, F_GETFL) & O_NONBLOCK
        with nogil:
            ring_replace_call(ring, own, may_block)

    def set_vring_err(self, index, fd):
        cdef Ring *ring = self.ring(index)
        cdef int own = os.dup(fd) if fd >= 0 else -1
        with nogil:
            ring_replace_err(ring, own)

    def set_vring_enable(self, index, enable):
        cdef Ring *ring = self.ring(index)
        cdef bint enabled = enable
        with nogil:
            if not enabled:
                ring_finish(ring)
            ring_pause(ring)
        ring.enabled = enabled
        self.resume(index)

    def get_vring_base(self, index):
        cdef Ring *ring = self.ring(index)
        with nogil:
            ring_finish(ring)
        return self.halt(index)

    cdef int halt(self, index) except -1:
        """Stops a ring where it is; the next available index."""
        cdef Ring *ring = self.ring(index)
        with nogil:
            ring_pause(ring)
            ring_set_kick(ring, -1)
        ring.started = False
        ring.attached = False
        ring.placed = False
        ring.unannounced = 0
        queue_detach(&ring.queue)
        self.resume(index)
        return ring.queue.last_avail

    def stop(self):
        """Stops every ring, for a front-end that went without a word."""
        for i in range(self.queue_count):
            self.halt(i)

    def reset(self):
        cdef int i
        for i in range(self.queue_count):
            self.halt(i)
            self.rings[i].enabled = False
            self.rings[i].broken = False
            self.rings[i].queue.last_avail = 0
            self.addresses[i] = None
        with nogil:
            session_end(&self.server)

    def drain_events(self):
        return events_drain(&self.server.events) if self.server.events.fd >= 0 else []

    # ---- the end ----------------------------------------------------------------------------------------------------------

    def close(self):
        self.release()

    def release(self):
        cdef int i
        if self.closed:
            return
        self.closed = True
        if self.rings != NULL:
            with nogil:
                for i in range(self.queue_count):
                    if self.rings[i].pool != NULL:
                        ring_pause(&self.rings[i])
                if self.pool.server != NULL:
                    pool_close(&self.pool)
                for i in range(self.queue_count):
                    if self.rings[i].pool != NULL:
                        ring_close(&self.rings[i])
            free(self.rings)
            self.rings = NULL
        if self.opened:
            with nogil:
                handles_close(&self.server.handles, &self.server.inodes)
                inodes_close(&self.server.inodes)
            self.opened = False
        events_close(&self.server.events)
        policy_free(&self.server.policy)
        if self.memory is not None:
            self.memory.close()
