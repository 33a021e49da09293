"""--translate-uid/--translate-gid: rules, refusals, and the reference translation."""

import pytest

from ferryfs.errors import OptionError
from ferryfs.passthrough.config import IdRange
from ferryfs.passthrough.idmap import Translation, check_rules, parse_rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("guest:0:1000:10", IdRange("guest", 0, 1000, 10)),
        ("host:1000:0:10", IdRange("host", 0, 1000, 10)),
        ("squash-guest:0:1000:4294967295", IdRange("squash-guest", 0, 1000, 4294967295)),
        ("squash-host:0:65534:1000", IdRange("squash-host", 65534, 0, 1000)),
        ("forbid-guest:5:6", IdRange("forbid-guest", 5, 0, 6)),
        ("map:0:100000:65536", IdRange("map", 0, 100000, 65536)),
        ("MAP/0/100000/65536", IdRange("map", 0, 100000, 65536)),
    ],
)
def test_rule_is_read(text: str, rule: IdRange) -> None:
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown type"),
        ("0:0:1", "unknown type"),
        (":map:0:0:1", "unknown type"),
        ("map", "0 numbers where map takes 3"),
        ("map:0:0", "2 numbers where map takes 3"),
        ("forbid-guest:0:0:1", "3 numbers where forbid-guest takes 2"),
        ("map:0x10:0:1", "'0x10' is not a number"),
        ("map:+1:0:1", "'+1' is not a number"),
        ("map:1_0:0:1", "'1_0' is not a number"),
        ("map:0:4294967296:1", "more than the highest id"),
        ("map:0:4294967294:2", "beyond the highest host id"),
        ("map:4294967294:0:2", "beyond the highest guest id"),
    ],
)
def test_wrong_rule_is_refused_with_a_sentence(text: str, says: str) -> None:
    with pytest.raises(OptionError, match=says.replace("'", ".")):
        parse_rule(text)


def test_overlap_within_a_direction_is_refused_whatever_the_order() -> None:
    rules = [parse_rule("map:0:1000:10"), parse_rule("guest:5:1:1")]
    for order in (rules, rules[::-1]):
        with pytest.raises(OptionError, match=r"--translate-uid: .*both translate guest id 5"):
            check_rules(order, "--translate-uid")


def test_the_two_directions_are_apart() -> None:
    rules = [parse_rule("guest:0:1000:10"), parse_rule("host:0:7:10"), parse_rule("squash-host:10:9:5")]
    assert check_rules(rules, "--translate-gid") == tuple(rules)


def test_rule_of_no_ids_is_dropped() -> None:
    assert check_rules([parse_rule("map:0:0:0")], "--translate-uid") == ()


def test_translation_of_every_kind() -> None:
    there = Translation(
        check_rules(
            map(
                parse_rule,
                [
                    "map:0:100000:1000",
                    "guest:1000:5:10",
                    "host:5:2000:10",
                    "squash-guest:3000:9:10",
                    "squash-host:300:65534:10",
                    "forbid-guest:4000:10",
                ],
            ),
            "--translate-uid",
        )
    )
    assert [there.to_host(i) for i in (0, 999, 1000, 1009, 1010)] == [100000, 100999, 5, 14, 1010]
    assert [there.to_host(i) for i in (3000, 3009, 3010, 3999, 4000, 4009, 4010)] == [
        9,
        9,
        3010,
        3999,
        None,
        None,
        4010,
    ]
    assert [there.to_guest(i) for i in (100000, 100999, 101000, 5, 14, 15)] == [0, 999, 101000, 2000, 2009, 15]
    assert [there.to_guest(i) for i in (299, 300, 309, 310)] == [299, 65534, 65534, 310]
    assert there.to_host(0xFFFF_FFFF) == 0xFFFF_FFFF
