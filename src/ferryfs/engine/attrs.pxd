# Attributes: from the host's stat to the guest's structures.
from libc.stdint cimport uint64_t

from ferryfs.engine.fuse_abi cimport Attr, EntryOut
from ferryfs.engine.handles cimport Handle
from ferryfs.engine.inodes cimport Inode
from ferryfs.engine.server cimport Request, Server
from ferryfs.engine.sys cimport Stat


cdef int stat_fd(int fd, Stat *st) noexcept nogil
cdef int stat_inode(Server *server, uint64_t nodeid, Stat *st) noexcept nogil
cdef void fill_attr(const Server *server, const Stat *st, Attr *attr) noexcept nogil
cdef int find_child(Server *server, Inode *parent, int parent_fd, const char *name, EntryOut *entry, Inode **found) noexcept nogil
cdef int adopt_created(Server *server, Inode *parent, const char *name, int fd, EntryOut *entry, Inode **found) noexcept nogil
cdef void undo_lookup(Server *server, Inode *inode) noexcept nogil
cdef int reply_child(Request *request, Inode *parent, int parent_fd, const char *name, bint is_new) noexcept nogil
