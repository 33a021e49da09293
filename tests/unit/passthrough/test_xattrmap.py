"""--xattrmap: the rule language and what a map does to a name, with the examples of virtiofsd's documentation."""

import errno

import pytest

from ferryfs.errors import OptionError
from ferryfs.passthrough.config import XattrRule
from ferryfs.passthrough.xattrmap import (
    UnmappedName,
    map_client,
    map_server,
    parse_rules,
    remaps_capability,
    unterminated,
)

EVERYTHING = ":prefix:all::user.virtiofs.::bad:all:::"
TRUSTED = """/prefix/all/trusted./user.virtiofs./
             /bad/server//trusted./
             /bad/client/user.virtiofs.//
             /ok/all///"""
HIDDEN = "/bad/all/security./security./ /ok/all///"


def client(rules: tuple[XattrRule, ...], name: bytes) -> bytes | int:
    try:
        return map_client(rules, name)
    except UnmappedName as refused:
        return refused.errno


def test_rules_may_differ_in_delimiter_and_be_apart_by_space() -> None:
    assert parse_rules(" :ok:client:user.::\n,bad,all,,, ") == (
        XattrRule("client", "ok", b"user.", b""),
        XattrRule("all", "bad", b"", b""),
    )


@pytest.mark.parametrize(
    ("short", "long"), [(":map::user.virtiofs.:", EVERYTHING), ("/map/trusted./user.virtiofs./", TRUSTED)]
)
def test_map_stands_for_the_documented_rules(short: str, long: str) -> None:
    assert parse_rules(short) == parse_rules(long)


def test_prefix_everything() -> None:
    rules = parse_rules(EVERYTHING)
    assert client(rules, b"security.selinux") == b"user.virtiofs.security.selinux"
    assert map_server(rules, b"user.virtiofs.security.selinux") == b"security.selinux"
    assert map_server(rules, b"user.other") is None
    assert map_server(rules, b"user.virtiofs.") is None


def test_prefix_trusted_only() -> None:
    rules = parse_rules(TRUSTED)
    assert client(rules, b"trusted.x") == b"user.virtiofs.trusted.x"
    assert client(rules, b"user.x") == b"user.x"
    assert client(rules, b"user.virtiofs.trusted.x") == errno.EPERM
    assert map_server(rules, b"user.virtiofs.trusted.x") == b"trusted.x"
    assert map_server(rules, b"trusted.x") is None
    assert map_server(rules, b"user.x") == b"user.x"


def test_hide_security() -> None:
    rules = parse_rules(HIDDEN)
    assert client(rules, b"security.selinux") == errno.EPERM
    assert map_server(rules, b"security.selinux") is None
    assert client(rules, b"user.a") == b"user.a"


def test_unsupported_and_no_rule_at_all() -> None:
    rules = parse_rules(":unsupported:all:trusted.:trusted.::ok:client:user.::")
    assert client(rules, b"trusted.x") == errno.ENOTSUP
    assert map_server(rules, b"trusted.x") is None
    assert client(rules, b"security.x") == errno.EPERM
    assert map_server(rules, b"user.x") is None
    assert unterminated(rules) == ("client", "server")
    assert unterminated(parse_rules(EVERYTHING)) == ()


def test_name_that_grows_too_long() -> None:
    rules = parse_rules(":map::user.virtiofs.:")
    assert client(rules, b"n" * (255 - 14)) == b"user.virtiofs." + b"n" * (255 - 14)
    assert client(rules, b"n" * (256 - 14)) == errno.ERANGE


def test_capability_under_another_name_is_found() -> None:
    assert remaps_capability(parse_rules(":map::user.virtiofs.:")) == b"user.virtiofs.security.capability"
    assert remaps_capability(parse_rules(TRUSTED)) is None
    assert remaps_capability(parse_rules(HIDDEN)) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no rule"),
        ("  ", "no rule"),
        ("foo", "rule 1 ends in its type"),
        (":ok", "rule 1 ends in its type"),
        (":ok:all", "rule 1 ends in its scope"),
        (":ok:all::", "rule 1 ends in its prepend"),
        (":ok:all::::x", "rule 2 ends in its type"),
        (":foo:all:::", "rule 1 has the type 'foo'"),
        (":ok:foo:::", "rule 1 has the scope 'foo'"),
        (":map:a:b::map:c:d:", "rule 1 is a map and not the last"),
        (":map:a:b::ok:all:::", "rule 1 is a map and not the last"),
        (":ok:all:a\0b::", "NUL"),
        (f":ok:all:{'k' * 256}::", "256 bytes"),
    ],
)
def test_wrong_map_is_refused_with_the_rules_number(text: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        parse_rules(text)


def test_bytes_that_are_not_utf8_stay_the_same_bytes() -> None:
    text = b":ok:all:user.\xff::".decode("utf-8", "surrogateescape")
    assert parse_rules(text)[0].key == b"user.\xff"
