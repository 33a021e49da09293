"""System calls that Python's os module lacks, and the part of libseccomp that the filter is built with.

Compiled, because ctypes costs start-up time and must not be used once the filter is closed. Every function raises
OSError.
"""

cimport cython
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "<dlfcn.h>" nogil:
    void *dlopen(const char *name, int flags)
    void *dlsym(void *library, const char *name)
    char *dlerror()
    int RTLD_NOW
    int RTLD_GLOBAL

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)
    int close(int fd)

cdef extern from "<sched.h>" nogil:
    int c_unshare "unshare"(int flags)

cdef extern from "<sys/mount.h>" nogil:
    int c_mount "mount"(const char *source, const char *target, const char *kind, unsigned long flags, const void *data)
    int c_umount2 "umount2"(const char *target, int flags)

cdef extern from "<sys/prctl.h>" nogil:
    int c_prctl "prctl"(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_pivot_root
    long SYS_capget
    long SYS_capset

cdef extern from "<fcntl.h>" nogil:
    int AT_FDCWD
    int AT_EMPTY_PATH
    int O_PATH
    int O_CLOEXEC

    struct file_handle:
        unsigned int handle_bytes
        int handle_type

    int name_to_handle_at(int dirfd, const char *path, file_handle *handle, int *mount_id, int flags)
    int open_by_handle_at(int mount_fd, file_handle *handle, int flags)

# Since Linux 5.2 and 5.12; these numbers are the same on every architecture but alpha, where we don't run.
cdef enum:
    NR_open_tree = 428
    NR_move_mount = 429
    NR_mount_setattr = 442

cdef struct mount_attr:
    uint64_t attr_set
    uint64_t attr_clr
    uint64_t propagation
    uint64_t userns_fd

cdef struct cap_header:
    uint32_t version
    int pid

cdef struct cap_data:
    uint32_t effective
    uint32_t permitted
    uint32_t inheritable

cdef enum:
    # linux/capability.h: two 32-bit words a set
    CAPABILITY_VERSION_3 = 0x20080522
    # linux/exportfs.h, MAX_HANDLE_SZ
    HANDLE_MAX = 128
    # struct file_handle without the handle is 8 bytes.
    HANDLE_WORDS = 17


cdef const char *_optional(bytes text) except? NULL:
    return NULL if text is None else <const char *> text


def unshare(int flags):
    """unshare(2)."""
    cdef int result
    with nogil:
        result = c_unshare(flags)
    if result < 0:
        PyErr_SetFromErrno(OSError)


def mount(bytes source, bytes target not None, bytes kind, unsigned long flags, bytes data=None):
    """mount(2); ``source``, ``kind`` and ``data`` may be None."""
    cdef const char *c_source = _optional(source)
    cdef const char *c_target = target
    cdef const char *c_kind = _optional(kind)
    cdef const char *c_data = _optional(data)
    cdef int result
    with nogil:
        result = c_mount(c_source, c_target, c_kind, flags, c_data)
    if result < 0:
        PyErr_SetFromErrno(OSError)


def umount(bytes target not None, int flags):
    """umount2(2)."""
    cdef const char *c_target = target
    cdef int result
    with nogil:
        result = c_umount2(c_target, flags)
    if result < 0:
        PyErr_SetFromErrno(OSError)


def pivot_root(bytes new_root not None, bytes put_old not None):
    """pivot_root(2)."""
    cdef const char *c_new = new_root
    cdef const char *c_old = put_old
    if syscall(SYS_pivot_root, c_new, c_old) < 0:
        PyErr_SetFromErrno(OSError)


def open_tree(int dirfd, bytes path not None, unsigned int flags):
    """open_tree(2): an O_PATH fd of a mount, or with OPEN_TREE_CLONE of a detached copy of it."""
    cdef const char *c_path = path
    cdef long result
    with nogil:
        result = syscall(NR_open_tree, dirfd, c_path, flags)
    if result < 0:
        PyErr_SetFromErrno(OSError)
    return result


def move_mount(int from_fd, bytes to not None, unsigned int flags):
    """move_mount(2) of a detached mount onto a path."""
    cdef const char *c_to = to
    cdef long result
    with nogil:
        result = syscall(NR_move_mount, from_fd, b"", AT_FDCWD, c_to, flags)
    if result < 0:
        PyErr_SetFromErrno(OSError)


def mount_setattr(int fd, unsigned int flags, uint64_t attr_set, uint64_t propagation):
    """mount_setattr(2) of the mount that ``fd`` is the root of."""
    cdef mount_attr attributes
    attributes.attr_set = attr_set
    attributes.attr_clr = 0
    attributes.propagation = propagation
    attributes.userns_fd = 0
    cdef long result
    with nogil:
        result = syscall(NR_mount_setattr, fd, b"", flags | AT_EMPTY_PATH, &attributes, sizeof(attributes))
    if result < 0:
        PyErr_SetFromErrno(OSError)


def prctl(int option, unsigned long a=0, unsigned long b=0, unsigned long c=0, unsigned long d=0):
    """prctl(2) with numbers for arguments."""
    cdef int result = c_prctl(option, a, b, c, d)
    if result < 0:
        PyErr_SetFromErrno(OSError)
    return result


def set_thread_name(bytes name not None):
    """PR_SET_NAME: at most 15 bytes show in ps(1)."""
    cdef const char *c_name = name
    if c_prctl(15, <unsigned long> c_name, 0, 0, 0) < 0:
        PyErr_SetFromErrno(OSError)


def capget():
    """(effective, permitted, inheritable) of this thread as bit masks."""
    cdef cap_header header
    cdef cap_data data[2]
    header.version = CAPABILITY_VERSION_3
    header.pid = 0
    if syscall(SYS_capget, &header, data) < 0:
        PyErr_SetFromErrno(OSError)
    return (
        data[0].effective | <uint64_t> data[1].effective << 32,
        data[0].permitted | <uint64_t> data[1].permitted << 32,
        data[0].inheritable | <uint64_t> data[1].inheritable << 32,
    )


def capset(uint64_t effective, uint64_t permitted, uint64_t inheritable):
    """Set this thread's capabilities. Threads made later inherit them; others that exist keep theirs."""
    cdef cap_header header
    cdef cap_data data[2]
    header.version = CAPABILITY_VERSION_3
    header.pid = 0
    data[0].effective = <uint32_t> effective
    data[1].effective = <uint32_t> (effective >> 32)
    data[0].permitted = <uint32_t> permitted
    data[1].permitted = <uint32_t> (permitted >> 32)
    data[0].inheritable = <uint32_t> inheritable
    data[1].inheritable = <uint32_t> (inheritable >> 32)
    if syscall(SYS_capset, &header, data) < 0:
        PyErr_SetFromErrno(OSError)


def try_file_handle(int fd):
    """Make a file handle of ``fd`` (not an O_PATH one, which can't name its file system) and open it again.

    (errno of making it, errno of opening it); zeros where it worked, and the second is 0 where the first failed.
    Whether a handle can be opened is only known by trying: in a user namespace the capability is there and it fails.
    """
    cdef uint64_t room[HANDLE_WORDS]
    cdef file_handle *handle = <file_handle *> room
    cdef int mount_id, opened
    handle.handle_bytes = HANDLE_MAX
    if name_to_handle_at(fd, b"", handle, &mount_id, AT_EMPTY_PATH) < 0:
        return errno, 0
    opened = open_by_handle_at(fd, handle, O_PATH | O_CLOEXEC)
    if opened < 0:
        return 0, errno
    close(opened)
    return 0, 0


def preload(bytes name not None):
    """Load a shared library for good; False where there is none of that name."""
    return dlopen(name, RTLD_NOW | RTLD_GLOBAL) != NULL


ctypedef int (*mallopt_t)(int option, int value) nogil

cdef enum:
    # malloc.h of glibc
    M_ARENA_MAX = -8


def limit_arenas(int count):
    """mallopt(3): at most so many arenas of malloc; False where the C library has none (musl)."""
    cdef void *found = dlsym(NULL, b"mallopt")
    return found != NULL and (<mallopt_t> found)(M_ARENA_MAX, count) == 1


# libseccomp, opened at run time: its header isn't needed to build and its absence can be explained.
cdef struct scmp_arg_cmp:
    unsigned int arg
    int op
    uint64_t datum_a
    uint64_t datum_b

ctypedef void *(*seccomp_init_t)(uint32_t action) nogil
ctypedef void (*seccomp_release_t)(void *context) nogil
ctypedef int (*seccomp_attr_set_t)(void *context, int attribute, uint32_t value) nogil
ctypedef int (*seccomp_load_t)(void *context) nogil
ctypedef int (*seccomp_resolve_t)(const char *name) nogil
ctypedef int (*seccomp_rule_add_t)(
    void *context, uint32_t action, int number, unsigned int count, const scmp_arg_cmp *comparisons) nogil

cdef enum:
    # More comparisons than a call has arguments make no sense.
    COMPARISONS_MAX = 6


@cython.final
cdef class Filter:
    """A seccomp filter under construction (seccomp_init(3) to seccomp_load(3))."""

    cdef void *library
    cdef void *context
    cdef seccomp_rule_add_t rule_add
    cdef seccomp_resolve_t resolver

    def __init__(self, uint32_t default_action):
        if self.context != NULL:
            raise ValueError("a filter is made once")
        self.library = dlopen(b"libseccomp.so.2", RTLD_NOW)
        if self.library == NULL:
            raise OSError(2, (<bytes> dlerror()).decode("utf-8", "replace"))
        self.rule_add = <seccomp_rule_add_t> self._symbol(b"seccomp_rule_add_array")
        self.resolver = <seccomp_resolve_t> self._symbol(b"seccomp_syscall_resolve_name")
        self.context = (<seccomp_init_t> self._symbol(b"seccomp_init"))(default_action)
        if self.context == NULL:
            raise OSError(22, "seccomp_init")

    cdef void *_symbol(self, bytes name) except NULL:
        cdef void *found = dlsym(self.library, name)
        if found == NULL:
            raise OSError(38, f"libseccomp has no {name.decode()}")
        return found

    def resolve(self, bytes name not None):
        """The number of a system call here; negative when this architecture or this libseccomp doesn't know it."""
        return self.resolver(name)

    def set_attribute(self, int attribute, uint32_t value):
        """seccomp_attr_set(3)."""
        cdef int result = (<seccomp_attr_set_t> self._symbol(b"seccomp_attr_set"))(self.context, attribute, value)
        if result < 0:
            raise OSError(-result, "seccomp_attr_set")

    def add(self, uint32_t action, int number, comparisons):
        """seccomp_rule_add_array(3): each comparison is (argument, operator, a, b), all of them must hold."""
        cdef scmp_arg_cmp array[COMPARISONS_MAX]
        cdef unsigned int count = 0
        for argument, operator, a, b in comparisons:
            if count == COMPARISONS_MAX:
                raise ValueError(f"at most {COMPARISONS_MAX} comparisons")
            array[count].arg = argument
            array[count].op = operator
            array[count].datum_a = a
            array[count].datum_b = b
            count += 1
        cdef int result = self.rule_add(self.context, action, number, count, array)
        if result < 0:
            raise OSError(-result, f"seccomp_rule_add of system call {number}")

    def load(self):
        """From now on the filter holds, for every thread where the attribute TSYNC is set."""
        cdef int result = (<seccomp_load_t> self._symbol(b"seccomp_load"))(self.context)
        if result < 0:
            raise OSError(-result, "seccomp_load")

    def __dealloc__(self):
        cdef void *release
        if self.context != NULL:
            release = dlsym(self.library, b"seccomp_release")
            if release != NULL:
                (<seccomp_release_t> release)(self.context)
