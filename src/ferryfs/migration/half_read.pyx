"""What is left of a directory that the guest has read by half, as its own open file has it.

Some facts about cookies. On ext4, XFS, btrfs and tmpfs a cookie means the same to every open file of a directory, as long as it
lasts. On overlayfs, and on a FUSE file system that lists a directory when it is opened, it is a position in a list that belongs to
the open file: another one of the same directory, opened later, has another list. Reading from the beginning makes the list anew.
On ramfs (tmpfs before Linux 6.6) a cookie counts the entries before it, so that one removed shifts all behind it; but an open file
that is only read on, without a seek, loses nothing by that.

So the rest is read by the guest's own open file, first on from where it stands. Then from behind the very first entry, because the
guest may go back (seekdir); what it gets there is believed when it ends like the first. The file is put back afterwards, for a
source that goes on. Where a seek would not lead to the same place, it goes on by the list that was read.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, strdup

import os

from ferryfs.engine.handles cimport CarriedEntry, DirStream, Handle, HandleTable, dir_drop_carried, dir_drop_rest, handle_get, handle_put
from ferryfs.engine.inodes cimport InodeTable
from ferryfs.engine.sys cimport lseek
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock
from ferryfs.migration import _syscalls


cdef enum:
    SEEK_SET = 0


cdef object rest_of(HandleTable *handles, InodeTable *inodes, uint64_t fh, size_t most_bytes):
    """(offset of the first entry, entries) that the guest may still ask for; None when that is more than ``most_bytes``. A later
    READDIR of the guest goes on as if nothing had been. Raises KeyError, OSError.
    """
    cdef Handle *handle = handle_get(handles, fh)
    if handle == NULL:
        raise KeyError(fh)
    try:
        # A front-end may start the rings in the middle of a save, which is given up then: the stream's lock is for that. A request
        # that holds it may have to wait for the interpreter's.
        with nogil:
            pthread_mutex_lock(&handle.dir.lock)
        try:
            return read_rest(handles, handle.dir, handle.fd, most_bytes)
        finally:
            pthread_mutex_unlock(&handle.dir.lock)
    finally:
        handle_put(handles, inodes, handle)


cdef object read_rest(HandleTable *handles, DirStream *dir, int fd, size_t most_bytes):
    """``rest_of``, under the stream's lock."""
    cdef int64_t position = dir.position
    cdef bint goes_by_list = False
    cdef list behind
    try:
        if position < 0:
            # Nobody knows where the guest is, but it has been given something.
            whole = listed_from(fd, dir.first, most_bytes) if dir.first else []
            return None if whole is None else (<uint64_t>dir.first, whole)
        ahead = kept(dir)
        read = None if dir.rest_length > most_bytes else _syscalls.read_directory(fd, most_bytes - dir.rest_length)
        if read is None:
            return None
        behind = ahead + read
        whole = listed_from(fd, dir.first, most_bytes) if dir.first else None
        if whole is not None and ends_with(whole, behind):
            return dir.first, with_place(dir.first, whole, len(whole) - len(behind), position)
        goes_by_list = len(behind) > 0
        if goes_by_list:
            carry(dir, [(position, 0, 0, b""), *behind])
        return position, behind
    finally:
        dir_drop_rest(handles, dir)
        if goes_by_list or position < 0 or lseek(fd, position, SEEK_SET) < 0:
            dir.position = -1


cdef object listed_from(int fd, int64_t offset, size_t most_bytes):
    """The directory's entries behind an offset, None when they are too many. OSError."""
    if lseek(fd, offset, SEEK_SET) < 0:
        raise OSError(errno, os.strerror(errno))
    return _syscalls.read_directory(fd, most_bytes)


cdef bint ends_with(list whole, list behind):
    """Whether a listing from the first entry on ends with the entries that were read on from where the file stood, at the same
    offsets. What was read ahead may have older ones, so it is the last that tells.
    """
    if not behind:
        return True
    return (
        len(whole) >= len(behind) and whole[-1][0] == behind[-1][0]
        and [entry[3] for entry in whole[len(whole) - len(behind):]] == [entry[3] for entry in behind]
    )


cdef list with_place(int64_t first, list whole, size_t index, int64_t position):
    """The listing, in which the offset that the guest was given last is found before the entry ``index``."""
    before = whole[index - 1][0] if index else first
    if before == position:
        return whole
    return [*whole[:index], (position, 0, 0, b""), *whole[index:]]


cdef list kept(const DirStream *dir):
    """The entries that were read ahead, as struct linux_dirent64, and not given yet."""
    cdef uint32_t at = dir.rest_at
    cdef uint64_t ino = 0
    cdef uint64_t following = 0
    cdef uint16_t length = 0
    cdef list entries = []
    while at < dir.rest_length:
        # SAFETY: the kernel wrote whole records; d_reclen leads from one to the next, up to rest_length.
        memcpy(&ino, dir.rest + at, 8)
        memcpy(&following, dir.rest + at + 8, 8)
        memcpy(&length, dir.rest + at + 16, 2)
        entries.append((following, ino, dir.rest[at + 18], <bytes>(<const char *>dir.rest + at + 19)))
        at += length
    return entries


cdef int carry(DirStream *dir, list entries) except -1:
    """Gives the stream of a directory, which has none yet, entries to serve; the first stands for the place before them."""
    cdef size_t count = len(entries)
    cdef size_t index
    dir.carried = <CarriedEntry *>calloc(count, sizeof(CarriedEntry))
    if dir.carried == NULL:
        raise MemoryError
    dir.carried_count = <uint32_t>count
    for index, (cookie, ino, kind, name) in enumerate(entries):
        dir.carried[index].cookie = cookie
        dir.carried[index].ino = ino
        dir.carried[index].type = kind
        dir.carried[index].name = strdup(<const char *><bytes>name)
        if dir.carried[index].name == NULL:
            dir_drop_carried(dir)
            raise MemoryError
    return 0
