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
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, strcmp, strdup

import os

from ferryfs.engine.handles cimport CarriedEntry, DirStream, Handle, HandleTable, dir_drop_carried, dir_drop_rest, handle_get, handle_put
from ferryfs.engine.inodes cimport InodeTable
from ferryfs.engine.sys cimport SYS_getdents64, lseek, syscall
from ferryfs.engine.threads cimport pthread_mutex_lock, pthread_mutex_unlock


cdef enum:
    SEEK_SET = 0
    READ_BYTES = 1 << 15
    # struct linux_dirent64: d_ino, d_off, d_reclen, d_type, d_name
    DENT_OFF = 8
    DENT_RECLEN = 16
    DENT_TYPE = 18
    DENT_NAME = 19


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
    cdef bytearray behind
    cdef size_t place
    try:
        if position < 0:
            # Nobody knows where the guest is, but it has been given something.
            whole = read_from(fd, dir.first, most_bytes) if dir.first else bytearray()
            return None if whole is None else (<uint64_t>dir.first, listed(whole))
        behind = bytearray((<const char *>dir.rest)[dir.rest_at:dir.rest_length]) if dir.rest != NULL else bytearray()
        if not read_on(fd, behind, most_bytes):
            return None
        whole = read_from(fd, dir.first, most_bytes) if dir.first else None
        if whole is not None and ends_with(whole, behind, &place):
            entries = listed(whole)
            before = entries[place - 1][0] if place else <uint64_t>dir.first
            if before != position:
                # The guest has this offset from an entry that is gone.
                entries.insert(place, (position, 0, 0, b""))
            return <uint64_t>dir.first, entries
        entries = listed(behind)
        goes_by_list = len(entries) > 0
        if goes_by_list:
            carry(dir, [(position, 0, 0, b""), *entries])
        return position, entries
    finally:
        dir_drop_rest(handles, dir)
        if goes_by_list or position < 0 or lseek(fd, position, SEEK_SET) < 0:
            dir.position = -1


cdef bint read_on(int fd, bytearray dents, size_t most_bytes) except -1:
    """Appends what is left of a directory, as struct linux_dirent64; whether that is no more than ``most_bytes``. OSError."""
    cdef char buffer[READ_BYTES]
    cdef long got
    while <size_t>len(dents) <= most_bytes:
        with nogil:
            got = syscall(SYS_getdents64, fd, buffer, sizeof(buffer))
        if got < 0:
            raise OSError(errno, os.strerror(errno))
        if got == 0:
            return True
        dents += buffer[:got]
    return False


cdef bytearray read_from(int fd, int64_t offset, size_t most_bytes):
    """The entries behind an offset, None when they are too many. OSError."""
    cdef bytearray dents = bytearray()
    if lseek(fd, offset, SEEK_SET) < 0:
        raise OSError(errno, os.strerror(errno))
    return dents if read_on(fd, dents, most_bytes) else None


cdef bint ends_with(bytearray whole, bytearray behind, size_t *place):
    """Whether a listing from the first entry on ends with the entries that were read on from where the file stood, at the same
    offsets; ``place``: how many are before them. What was read ahead may have older offsets, so it is the last that tells.
    """
    cdef const char *a = whole
    cdef const char *b = behind
    cdef size_t a_length = len(whole)
    cdef size_t b_length = len(behind)
    cdef size_t a_at = 0
    cdef size_t b_at = 0
    cdef size_t all = counted(a, a_length)
    cdef size_t left = counted(b, b_length)
    cdef uint64_t a_cookie = 0
    cdef uint64_t b_cookie = 0
    if left > all:
        return False
    place[0] = all - left
    for _ in range(place[0]):
        a_at += record_length(a + a_at)
    # SAFETY: both have `left` whole records from here on; each has a name with a NUL behind it.
    while b_at < b_length:
        if strcmp(a + a_at + DENT_NAME, b + b_at + DENT_NAME) != 0:
            return False
        memcpy(&a_cookie, a + a_at + DENT_OFF, sizeof(a_cookie))
        memcpy(&b_cookie, b + b_at + DENT_OFF, sizeof(b_cookie))
        a_at += record_length(a + a_at)
        b_at += record_length(b + b_at)
    return a_cookie == b_cookie


cdef size_t record_length(const char *record) noexcept nogil:
    cdef uint16_t length = 0
    memcpy(&length, record + DENT_RECLEN, sizeof(length))
    return length


cdef size_t counted(const char *dents, size_t length) noexcept nogil:
    """How many records there are."""
    cdef size_t count = 0
    cdef size_t at = 0
    # SAFETY: the kernel wrote whole records; d_reclen leads from one to the next, up to `length`.
    while at < length:
        at += record_length(dents + at)
        count += 1
    return count


cdef list listed(bytearray dents):
    """[(offset behind it, inode number, kind, name)] of the records."""
    cdef const char *data = dents
    cdef size_t length = len(dents)
    cdef uint64_t ino = 0
    cdef uint64_t following = 0
    cdef size_t at = 0
    cdef list entries = []
    # SAFETY: as in ``counted``.
    while at < length:
        memcpy(&ino, data + at, sizeof(ino))
        memcpy(&following, data + at + DENT_OFF, sizeof(following))
        entries.append((following, ino, <uint8_t>data[at + DENT_TYPE], <bytes>(data + at + DENT_NAME)))
        at += record_length(data + at)
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
