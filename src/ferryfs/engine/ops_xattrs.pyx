"""SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR.

An O_PATH fd has no xattr calls of its own; they go through /proc/self/fd, which is the working directory of every worker.
"""

from libc.errno cimport E2BIG, EINVAL, EOPNOTSUPP, ERANGE, EROFS, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memmove, memset, strcmp, strlen

from ferryfs.engine.creds cimport fsetid_drop, fsetid_restore, settle
from ferryfs.engine.fuse_abi cimport FUSE_SETXATTR_ACL_KILL_SGID, GetxattrIn, SetxattrIn
from ferryfs.engine.inodes cimport INODE_READABLE, Inode, inode_get_fd, inode_put
from ferryfs.engine.policy cimport xattr_to_guest, xattr_to_host
from ferryfs.engine.request cimport reply, take_string
from ferryfs.engine.server cimport INIT_POSIX_ACL, INIT_SETXATTR_EXT, NOT_SERVED, Request, Server
from ferryfs.engine.sys cimport XATTR_CREATE, XATTR_REPLACE, fgetxattr, getxattr, listxattr, removexattr, setxattr, snprintf


cdef enum:
    NAME_ROOM = 512             # a name of 255 bytes behind a prefix of --xattrmap
    VALUE_MAX = 65536           # XATTR_SIZE_MAX, XATTR_LIST_MAX


cdef bint is_acl(const char *name) noexcept nogil:
    return strcmp(name, "system.posix_acl_access") == 0 or strcmp(name, "system.posix_acl_default") == 0


cdef int host_name(Request *request, const char *name, char *into) noexcept nogil:
    """Checks and maps an xattr's name; 0 or -errno."""
    if name == NULL or name[0] == 0:
        return -EINVAL
    if strlen(name) > 255:
        return -ERANGE
    # Without the guest's knowledge of ACLs it would not keep mode bits and ACLs in step.
    if is_acl(name) and not request.server.session.flags & INIT_POSIX_ACL:
        return -EOPNOTSUPP
    return xattr_to_host(&request.server.policy, name, into, NAME_ROOM)


cdef Inode *target(Request *request, char *path, int *error) noexcept nogil:
    """The pinned inode and its path below /proc/self/fd (16 bytes); NULL and an error (negative)."""
    cdef Server *server = request.server
    cdef Inode *inode = NULL
    cdef int fd
    if not server.settings.xattr:
        error[0] = NOT_SERVED
        return NULL
    error[0] = settle(request)
    if error[0] < 0:
        return NULL
    fd = inode_get_fd(&server.inodes, request.head.nodeid, &inode)
    if fd < 0:
        error[0] = fd
        return NULL
    snprintf(path, 16, "%d", fd)
    return inode


cdef int op_setxattr(Request *request) noexcept nogil:
    cdef Server *server = request.server
    cdef uint32_t position = sizeof(SetxattrIn) if server.session.flags & INIT_SETXATTR_EXT else 8
    cdef const char *name
    cdef char mapped[NAME_ROOM]
    cdef char path[16]
    cdef Inode *inode
    cdef SetxattrIn args
    cdef bint dropped = False
    cdef int result
    memset(&args, 0, sizeof(args))
    if request.args_length < position:
        return -EINVAL
    memcpy(&args, request.args, position)
    name = take_string(request, &position)
    if server.settings.readonly:
        return -EROFS
    if not server.settings.xattr:
        return NOT_SERVED
    result = host_name(request, name, mapped)
    if result < 0:
        return result
    if args.size > VALUE_MAX:
        return -E2BIG
    if args.size > request.args_length - position or args.flags & ~<uint32_t>(XATTR_CREATE | XATTR_REPLACE):
        return -EINVAL
    inode = target(request, path, &result)
    if inode == NULL:
        return result
    if args.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID:
        dropped = fsetid_drop()
    if setxattr(path, mapped, request.args + position, args.size, <int>args.flags) < 0:
        result = -errno
    fsetid_restore(dropped)
    inode_put(&server.inodes, inode)
    return result


cdef int reply_sized(Request *request, uint32_t asked, uint32_t size) noexcept nogil:
    """The common end of GETXATTR and LISTXATTR: the size when 0 was asked for, else what lies in scratch."""
    cdef GetxattrIn out
    if asked == 0:
        memset(&out, 0, sizeof(out))
        out.size = size
        return reply(request, &out, sizeof(out))
    return -ERANGE if size > asked else reply(request, request.scratch, size)


cdef int op_getxattr(Request *request) noexcept nogil:
    cdef uint32_t position = sizeof(GetxattrIn)
    cdef const char *name = take_string(request, &position)
    cdef char mapped[NAME_ROOM]
    cdef char path[16]
    cdef Inode *inode
    cdef GetxattrIn args
    cdef ssize_t size
    cdef int result
    memcpy(&args, request.args, sizeof(args))
    if not request.server.settings.xattr:
        return NOT_SERVED
    result = host_name(request, name, mapped)
    if result < 0:
        return result
    inode = target(request, path, &result)
    if inode == NULL:
        return result
    if inode.flags & INODE_READABLE:
        size = fgetxattr(inode.fd, mapped, request.scratch, VALUE_MAX if args.size else 0)
    else:
        size = getxattr(path, mapped, request.scratch, VALUE_MAX if args.size else 0)
    if size < 0:
        result = -errno
    inode_put(&request.server.inodes, inode)
    return result if result < 0 else reply_sized(request, args.size, <uint32_t>size)


cdef uint32_t map_list(Request *request, uint32_t size) noexcept nogil:
    """Rewrites the list of names in scratch as the guest shall see it; its new size. A guest's name is never longer."""
    cdef char *list = <char *>request.scratch
    cdef const char *name
    cdef uint32_t length
    cdef uint32_t at = 0
    cdef uint32_t kept = 0
    while at < size:
        length = <uint32_t>strlen(list + at) + 1
        name = xattr_to_guest(&request.server.policy, list + at)
        if is_acl(list + at) and not request.server.session.flags & INIT_POSIX_ACL:
            name = NULL
        if name != NULL:
            at += length
            length = <uint32_t>strlen(name) + 1
            memmove(list + kept, name, length)
            kept += length
        else:
            at += length
    return kept


cdef int op_listxattr(Request *request) noexcept nogil:
    cdef char path[16]
    cdef Inode *inode
    cdef GetxattrIn args
    cdef ssize_t size
    cdef int result = 0
    memcpy(&args, request.args, sizeof(args))
    inode = target(request, path, &result)
    if inode == NULL:
        return result
    size = listxattr(path, <char *>request.scratch, VALUE_MAX)
    if size < 0:
        result = -errno
    inode_put(&request.server.inodes, inode)
    if result < 0:
        return result
    request.scratch[size] = 0
    return reply_sized(request, args.size, map_list(request, <uint32_t>size))


cdef int op_removexattr(Request *request) noexcept nogil:
    cdef uint32_t position = 0
    cdef const char *name = take_string(request, &position)
    cdef char mapped[NAME_ROOM]
    cdef char path[16]
    cdef Inode *inode
    cdef int result
    if request.server.settings.readonly:
        return -EROFS
    if not request.server.settings.xattr:
        return NOT_SERVED
    result = host_name(request, name, mapped)
    if result < 0:
        return result
    inode = target(request, path, &result)
    if inode == NULL:
        return result
    if removexattr(path, mapped) < 0:
        result = -errno
    inode_put(&request.server.inodes, inode)
    return result
