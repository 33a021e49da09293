"""Id translation (--translate-uid, --translate-gid) and the xattr map (--xattrmap), applied without the GIL.

The rules were parsed and checked in ferryfs.passthrough; here they are plain arrays that are walked in order.
"""

from libc.errno cimport ENAMETOOLONG, EOPNOTSUPP, EPERM
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strlen, strncmp

from ferryfs.passthrough.xattrmap import remaps_capability

ID_KINDS = {
    "guest": ID_GUEST, "host": ID_HOST, "map": ID_MAP, "squash-guest": ID_SQUASH_GUEST, "squash-host": ID_SQUASH_HOST,
    "forbid-guest": ID_FORBID_GUEST,
}
XATTR_SCOPES = {"client": XATTR_CLIENT, "server": XATTR_SERVER, "all": XATTR_CLIENT | XATTR_SERVER}
XATTR_ACTIONS = {"prefix": XATTR_PREFIX, "ok": XATTR_OK, "bad": XATTR_BAD, "unsupported": XATTR_UNSUPPORTED}


cdef IdRule *id_rules(rules) except? NULL:
    cdef IdRule *made
    cdef int i = 0
    if not rules:
        return NULL
    made = <IdRule *>calloc(len(rules), sizeof(IdRule))
    if made == NULL:
        raise MemoryError
    for rule in rules:
        made[i].kind = ID_KINDS[rule.kind]
        made[i].guest = rule.guest_base
        made[i].host = rule.host_base
        made[i].count = rule.count
        i += 1
    return made


cdef char *copy_bytes(bytes text) except NULL:
    cdef char *made = <char *>calloc(1, len(text) + 1)
    if made == NULL:
        raise MemoryError
    memcpy(made, <char *>text, len(text))
    return made


cdef int policy_init(Policy *policy, config) except -1:
    """Copies the rules of a ShareConfig; policy_free releases them, also after a failure."""
    cdef int i = 0
    memset(policy, 0, sizeof(Policy))
    policy.uids = id_rules(config.uid_rules)
    policy.uid_count = len(config.uid_rules)
    policy.gids = id_rules(config.gid_rules)
    policy.gid_count = len(config.gid_rules)
    if config.xattr_rules:
        policy.xattrs = <XattrMapRule *>calloc(len(config.xattr_rules), sizeof(XattrMapRule))
        if policy.xattrs == NULL:
            raise MemoryError
    for rule in config.xattr_rules:
        policy.xattrs[i].scope = XATTR_SCOPES[rule.scope]
        policy.xattrs[i].action = XATTR_ACTIONS[rule.action]
        policy.xattrs[i].key = copy_bytes(rule.key)
        policy.xattrs[i].key_length = len(rule.key)
        policy.xattrs[i].prepend = copy_bytes(rule.prepend)
        policy.xattrs[i].prepend_length = len(rule.prepend)
        i += 1
        policy.xattr_count = i
    renamed = remaps_capability(config.xattr_rules)
    if renamed:
        policy.capability = copy_bytes(renamed)
    return 0


cdef void policy_free(Policy *policy) noexcept nogil:
    cdef int i
    for i in range(policy.xattr_count):
        free(policy.xattrs[i].key)
        free(policy.xattrs[i].prepend)
    free(policy.xattrs)
    free(policy.capability)
    free(policy.uids)
    free(policy.gids)
    memset(policy, 0, sizeof(Policy))


cdef int id_to_host(const IdRule *rules, int count, uint32_t id, uint32_t *host) noexcept nogil:
    """The host's id for a guest's: 0, or -EPERM where a rule forbids it. What no rule names passes unchanged."""
    cdef int i
    host[0] = id
    for i in range(count):
        if id - rules[i].guest >= rules[i].count or id < rules[i].guest:
            continue
        if rules[i].kind == ID_GUEST or rules[i].kind == ID_MAP:
            host[0] = rules[i].host + (id - rules[i].guest)
            return 0
        if rules[i].kind == ID_SQUASH_GUEST:
            host[0] = rules[i].host
            return 0
        if rules[i].kind == ID_FORBID_GUEST:
            return -EPERM
    return 0


cdef uint32_t id_to_guest(const IdRule *rules, int count, uint32_t id) noexcept nogil:
    """The guest's id for a host's."""
    cdef int i
    for i in range(count):
        if id < rules[i].host or id - rules[i].host >= rules[i].count:
            continue
        if rules[i].kind == ID_HOST or rules[i].kind == ID_MAP:
            return rules[i].guest + (id - rules[i].host)
        if rules[i].kind == ID_SQUASH_HOST:
            return rules[i].guest
    return id


cdef int xattr_to_host(const Policy *policy, const char *name, char *into, size_t room) noexcept nogil:
    """The host's name for the guest's, with its NUL, in `into`: 0 or -errno. Without rules it is the same; with rules a
    name that none of them takes is refused.
    """
    cdef int i
    cdef size_t length = strlen(name)
    cdef XattrMapRule *rule
    if policy.xattr_count == 0:
        if length + 1 > room:
            return -ENAMETOOLONG
        memcpy(into, name, length + 1)
        return 0
    for i in range(policy.xattr_count):
        rule = &policy.xattrs[i]
        if not rule.scope & XATTR_CLIENT or strncmp(name, rule.key, rule.key_length) != 0:
            continue
        if rule.action == XATTR_BAD:
            return -EPERM
        if rule.action == XATTR_UNSUPPORTED:
            return -EOPNOTSUPP
        if rule.action == XATTR_OK:
            if length + 1 > room:
                return -ENAMETOOLONG
            memcpy(into, name, length + 1)
            return 0
        if rule.prepend_length + length + 1 > room:
            return -ENAMETOOLONG
        memcpy(into, rule.prepend, rule.prepend_length)
        memcpy(into + rule.prepend_length, name, length + 1)
        return 0
    return -EPERM


cdef const char *xattr_to_guest(const Policy *policy, const char *name) noexcept nogil:
    """The guest's name for one of the host's (a part of it), or NULL where the guest shall not see it."""
    cdef int i
    cdef XattrMapRule *rule
    if policy.xattr_count == 0:
        return name
    for i in range(policy.xattr_count):
        rule = &policy.xattrs[i]
        if not rule.scope & XATTR_SERVER or strncmp(name, rule.prepend, rule.prepend_length) != 0:
            continue
        if rule.action == XATTR_OK:
            return name
        if rule.action == XATTR_PREFIX:
            # The bare prefix is no name that the guest could ask for.
            return name + rule.prepend_length if name[rule.prepend_length] != 0 else NULL
        return NULL
    return NULL
