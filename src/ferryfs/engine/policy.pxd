# The rules that ids and names of extended attributes pass through, as the options gave them.
from libc.stdint cimport uint32_t


cdef enum:
    ID_GUEST = 1                # guest to host
    ID_HOST = 2                 # host to guest
    ID_MAP = 3                  # both ways
    ID_SQUASH_GUEST = 4
    ID_SQUASH_HOST = 5
    ID_FORBID_GUEST = 6

cdef enum:
    XATTR_CLIENT = 1            # names that the guest says
    XATTR_SERVER = 2            # names that the host has

cdef enum:
    XATTR_PREFIX = 1
    XATTR_OK = 2
    XATTR_BAD = 3
    XATTR_UNSUPPORTED = 4

cdef struct IdRule:
    int kind
    uint32_t guest
    uint32_t host
    uint32_t count

cdef struct XattrMapRule:
    int scope
    int action
    char *key
    size_t key_length
    char *prepend
    size_t prepend_length

cdef struct Policy:
    IdRule *uids
    int uid_count
    IdRule *gids
    int gid_count
    XattrMapRule *xattrs
    int xattr_count
    char *capability            # the host's name of the guest's security.capability when it has another one; else NULL


cdef int policy_init(Policy *policy, config) except -1
cdef void policy_free(Policy *policy) noexcept nogil
cdef int id_to_host(const IdRule *rules, int count, uint32_t id, uint32_t *host) noexcept nogil
cdef uint32_t id_to_guest(const IdRule *rules, int count, uint32_t id) noexcept nogil
cdef int xattr_to_host(const Policy *policy, const char *name, char *into, size_t room) noexcept nogil
cdef const char *xattr_to_guest(const Policy *policy, const char *name) noexcept nogil
