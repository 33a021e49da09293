"""MKNOD, MKDIR, SYMLINK, CREATE, TMPFILE: what makes something, as the guest's user."""

from libc.errno cimport EEXIST, EINVAL, EROFS, ESTALE, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from ferryfs.engine.attrs cimport adopt_created, reply_child, undo_lookup
from ferryfs.engine.creds cimport Creds, creds_enter, creds_leave, settle
from ferryfs.engine.fuse_abi cimport (
    FUSE_EXT_GROUPS, FUSE_MAX_NR_SECCTX, OP_CREATE, CreateIn, EntryOut, ExtHeader, MkdirIn, MknodIn,
)
from ferryfs.engine.inode_fds cimport fds_release, fds_reserve
from ferryfs.engine.inodes cimport Inode, inode_get_fd, inode_put
from ferryfs.engine.ops_open cimport host_flags, reply_open
from ferryfs.engine.policy cimport id_to_host, xattr_to_host
from ferryfs.engine.request cimport check_name, reply, take_string
from ferryfs.engine.server cimport (
    INIT_CREATE_SUPP_GROUP, INIT_DONT_MASK, INIT_SECURITY_CTX, Request, Server,
)
from ferryfs.engine.sys cimport (
    AT_REMOVEDIR, O_CLOEXEC, O_CREAT, O_EXCL, O_NOFOLLOW, O_PATH, O_TMPFILE, O_TRUNC, S_IFDIR, S_IFMT, close,
    mkdirat, mknodat, openat, setxattr, snprintf, symlinkat, umask, unlinkat,
)


cdef enum:
    XATTR_ROOM = 512
    NOBODY = 0xffffffff             # no id at all (INVALID_UID_GID of an idmapped mount)


# Whom a request acts as, and what else the guest wants of the new file.
cdef struct Maker:
    uint32_t uid
    uint32_t gid
    int has_group
    uint32_t group
    uint32_t umask
    const char *label_name          # security context: an xattr of the new file; NULL: none
    const char *label_value
    uint32_t label_size
    Creds creds


cdef int take_context(Request *request, uint32_t position, uint32_t end, uint32_t count, Maker *maker) noexcept nogil:
    """One extension of security contexts: fuse_secctx {size, padding}, its name with a NUL, its value. Linux sends one."""
    cdef uint32_t size = 0
    cdef uint32_t at = position
    if count == 0:
        return 0
    if count > 1 or end - at < 8:
        return -EINVAL
    memcpy(&size, request.args + at, sizeof(size))
    at += 8
    maker.label_name = take_string(request, &at)
    if maker.label_name == NULL or at > end or size > end - at or size == 0:
        return -EINVAL
    maker.label_value = request.args + at
    maker.label_size = size
    return 0


cdef int take_extensions(Request *request, uint32_t position, Maker *maker) noexcept nogil:
    """Reads the extensions behind the names (fuse_ext_header, each padded to 8 bytes); 0 or -EINVAL."""
    cdef Server *server = request.server
    cdef ExtHeader ext
    cdef uint32_t groups = 0
    cdef uint32_t end
    cdef int result
    if not server.session.flags & (INIT_SECURITY_CTX | INIT_CREATE_SUPP_GROUP):
        return 0
    while request.args_length - position >= sizeof(ext):
        memcpy(&ext, request.args + position, sizeof(ext))
        if ext.size < sizeof(ext) or ext.size > request.args_length - position:
            return -EINVAL
        end = position + ext.size
        if ext.type == FUSE_EXT_GROUPS:
            if ext.size < sizeof(ext) + 4:
                return -EINVAL
            memcpy(&groups, request.args + position + sizeof(ext), sizeof(groups))
            # Linux sends the one group that counts; more would need checking which of them does.
            if groups > 1 or ext.size < sizeof(ext) + 4 + groups * 4:
                return -EINVAL
            if groups == 1:
                maker.has_group = True
                memcpy(&maker.group, request.args + position + sizeof(ext) + 4, sizeof(maker.group))
        elif ext.type <= FUSE_MAX_NR_SECCTX:
            result = take_context(request, position + sizeof(ext), end, ext.type, maker)
            if result < 0:
                return result
        else:
            return -EINVAL
        position += (ext.size + 7) & ~<uint32_t>7
        if position > request.args_length:
            break
    return 0


cdef int become(Request *request, Maker *maker, uint32_t mask) noexcept nogil:
    """Takes on the guest's user, group and umask; 0 or -errno. To be followed by unbecome."""
    cdef Server *server = request.server
    cdef int result = settle(request)
    if result == 0:
        result = id_to_host(server.policy.uids, server.policy.uid_count, request.head.uid, &maker.uid)
    if result == 0:
        result = id_to_host(server.policy.gids, server.policy.gid_count, request.head.gid, &maker.gid)
    if result == 0 and maker.has_group:
        result = id_to_host(server.policy.gids, server.policy.gid_count, maker.group, &maker.group)
    # -1 means "leave it" to setresuid: the file would become the daemon's own, whatever the translation says.
    if result == 0 and (maker.uid == NOBODY or maker.gid == NOBODY):
        result = -EINVAL
    if result == 0:
        result = creds_enter(server, &maker.creds, maker.uid, maker.gid, maker.has_group, maker.group)
    if result == 0:
        # With DONT_MASK the guest leaves the mask to us, so that a default ACL can stand in for it.
        maker.umask = mask & 0o777 if server.session.flags & INIT_DONT_MASK else 0
        if maker.umask:
            umask(maker.umask)
    return result


cdef void unbecome(Request *request, const Maker *maker) noexcept nogil:
    creds_leave(request.server, &maker.creds)
    if maker.umask:
        umask(0)


cdef int label_path(Request *request, int path_fd, const Maker *maker) noexcept nogil:
    """Sets the security context of a new file, through an O_PATH fd; 0 or -errno."""
    cdef char name[XATTR_ROOM]
    cdef char path[32]
    cdef int result = xattr_to_host(&request.server.policy, maker.label_name, name, sizeof(name))
    if result < 0:
        return result
    # Relative to the worker's working directory, which is /proc/self/fd.
    snprintf(path, sizeof(path), "%d", path_fd)
    return 0 if setxattr(path, name, maker.label_value, maker.label_size, 0) == 0 else -errno


cdef int label_new(Request *request, int parent_fd, const char *name, const Maker *maker, int remove_flags) noexcept nogil:
    """Labels what was just made under `name`, or takes it away again; 0 or -errno."""
    cdef int result
    cdef int fd
    if maker.label_name == NULL:
        return 0
    fd = openat(parent_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC)
    if fd < 0:
        result = -errno
    else:
        result = label_path(request, fd, maker)
        close(fd)
    if result < 0:
        unlinkat(parent_fd, name, remove_flags)
    return result


cdef int parent_of(Request *request, Inode **parent) noexcept nogil:
    """The directory that something shall be made in: its fd, with the inode pinned; or -errno, with nothing pinned."""
    if request.server.settings.readonly:
        return -EROFS
    return inode_get_fd(&request.server.inodes, request.head.nodeid, parent)


# ---- MKNOD, MKDIR, SYMLINK -------------------------------------------------------------------------------------------------


# What one of them makes: a node or a directory by `mode`, or a symlink when there is a target.
cdef struct Wanted:
    const char *target
    uint32_t mode
    uint32_t rdev
    uint32_t umask


cdef int make_in(int parent_fd, const char *name, const Wanted *wanted) noexcept nogil:
    """The system call; 0 or -errno."""
    cdef int made
    if wanted.target != NULL:
        made = symlinkat(wanted.target, parent_fd, name)
    elif wanted.mode & S_IFMT == S_IFDIR:
        made = mkdirat(parent_fd, name, wanted.mode & ~<uint32_t>S_IFMT)
    else:
        # The kernel's device encoding in FUSE is makedev's for the 12 + 20 bits that Linux has.
        made = mknodat(parent_fd, name, wanted.mode, wanted.rdev)
    return 0 if made == 0 else -errno


cdef int make(Request *request, const char *name, const Wanted *wanted, uint32_t position) noexcept nogil:
    """Makes what is wanted under `name`, as the guest's user, and answers with its entry; extensions begin at `position`."""
    cdef Inode *parent = NULL
    cdef Maker maker
    cdef int fd
    cdef int result
    memset(&maker, 0, sizeof(maker))
    result = take_extensions(request, position, &maker)
    if result < 0:
        return result
    fd = parent_of(request, &parent)
    if fd < 0:
        return fd
    if request.server.inodes.mounts[parent.mount].fd < 0:
        # It will need a file of the guest's. Asked for first, as what is made could not be taken away again for lack of it: its
        # name may be another one's by then.
        result = fds_reserve(&request.server.inodes)
        if result < 0:
            inode_put(&request.server.inodes, parent)
            return result
        fds_release(&request.server.inodes)
    result = become(request, &maker, wanted.umask)
    if result == 0:
        result = make_in(fd, name, wanted)
        unbecome(request, &maker)
    if result == 0:
        result = label_new(request, fd, name, &maker, AT_REMOVEDIR if wanted.mode & S_IFMT == S_IFDIR else 0)
    if result == 0:
        result = reply_child(request, parent, fd, name, True)
    inode_put(&request.server.inodes, parent)
    return result


cdef int op_mknod(Request *request) noexcept nogil:
    cdef uint32_t position = sizeof(MknodIn)
    cdef const char *name = take_string(request, &position)
    cdef MknodIn args
    cdef Wanted wanted
    cdef int result = check_name(name)
    if result < 0:
        return result
    memcpy(&args, request.args, sizeof(args))
    if args.mode & S_IFMT == S_IFDIR:
        return -EINVAL
    memset(&wanted, 0, sizeof(wanted))
    wanted.mode = args.mode
    wanted.rdev = args.rdev
    wanted.umask = args.umask
    return make(request, name, &wanted, position)


cdef int op_mkdir(Request *request) noexcept nogil:
    cdef uint32_t position = sizeof(MkdirIn)
    cdef const char *name = take_string(request, &position)
    cdef MkdirIn args
    cdef Wanted wanted
    cdef int result = check_name(name)
    if result < 0:
        return result
    memcpy(&args, request.args, sizeof(args))
    memset(&wanted, 0, sizeof(wanted))
    wanted.mode = (args.mode & ~<uint32_t>S_IFMT) | S_IFDIR
    wanted.umask = args.umask
    return make(request, name, &wanted, position)


cdef int op_symlink(Request *request) noexcept nogil:
    cdef uint32_t position = 0
    cdef const char *name = take_string(request, &position)
    cdef const char *target = take_string(request, &position)
    cdef Wanted wanted
    cdef int result = check_name(name)
    if result < 0:
        return result
    if target == NULL or target[0] == 0:
        return -EINVAL
    memset(&wanted, 0, sizeof(wanted))
    wanted.target = target
    return make(request, name, &wanted, position)


# ---- CREATE, TMPFILE -------------------------------------------------------------------------------------------------------


cdef int create_in(
    Request *request, Inode *parent, int parent_fd, const char *name, const CreateIn *args, Maker *maker
) noexcept nogil:
    """The middle of CREATE and TMPFILE (name ""): makes, opens, labels and answers; 0 or -errno."""
    cdef Server *server = request.server
    cdef EntryOut entry
    cdef Inode *inode = NULL
    cdef bint nameless = name[0] == 0
    cdef int flags = host_flags(server, args.flags)
    cdef int made = O_TMPFILE if nameless else O_CREAT | O_EXCL | O_NOFOLLOW
    cdef int fd = -1
    cdef int result = fds_reserve(&server.inodes)
    if result < 0:
        return result
    result = become(request, maker, args.umask)
    if result < 0:
        fds_release(&server.inodes)
        return result
    if nameless and <int>args.flags & O_EXCL:
        made |= O_EXCL
    fd = openat(parent_fd, <const char *>"." if nameless else name, (flags & ~O_TRUNC) | made, <uint32_t>(args.mode & 0o7777))
    if fd < 0:
        result = -errno
    unbecome(request, maker)
    if fd >= 0:
        if maker.label_name != NULL:
            result = label_path(request, fd, maker)
        if result == 0:
            result = adopt_created(server, parent, name, fd, &entry, &inode)
        if result < 0:
            close(fd)
            if not nameless:
                unlinkat(parent_fd, name, 0)
    elif result == -EEXIST and not <int>args.flags & O_EXCL:
        # 1. the guest finds no such name, and its user may make files there, 2. somebody else makes it, 3. CREATE comes. Whether
        # that user may open this file nobody has checked: Linux looks the name up again after ESTALE, and does.
        result = -ESTALE
    if result < 0:
        fds_release(&server.inodes)
        return result
    # Entry and open file go out together; the room for both was checked before the request was begun.
    reply(request, &entry, sizeof(entry))
    result = reply_open(request, inode, fd, args.flags, 0)
    if result < 0:
        undo_lookup(server, inode)
    else:
        inode_put(&server.inodes, inode)
    return result


cdef int op_create(Request *request) noexcept nogil:
    """CREATE and TMPFILE. The name that Linux sends with TMPFILE is "/" and means nothing."""
    cdef Server *server = request.server
    cdef uint32_t position = sizeof(CreateIn)
    cdef const char *name = take_string(request, &position)
    cdef Inode *parent = NULL
    cdef CreateIn args
    cdef Maker maker
    cdef int fd
    cdef int result = 0
    if request.head.opcode == OP_CREATE:
        result = check_name(name)
        if result < 0:
            return result
    else:
        name = ""
    memset(&maker, 0, sizeof(maker))
    memcpy(&args, request.args, sizeof(args))
    result = take_extensions(request, position, &maker)
    if result < 0:
        return result
    fd = parent_of(request, &parent)
    if fd < 0:
        return fd
    result = create_in(request, parent, fd, name, &args, &maker)
    inode_put(&server.inodes, parent)
    return result


cdef int op_tmpfile(Request *request) noexcept nogil:
    return op_create(request)
