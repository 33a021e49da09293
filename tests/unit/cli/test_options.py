"""The command line: values, aliases, exclusions and sentences, against what virtiofsd 1.14.0 does with the same
words."""

from pathlib import Path

import pytest

from ferryfs.cli import options_rules, options_text
from ferryfs.cli.options import LogLevel, Options, SandboxMode, SeccompAction, flag, key_of, table
from ferryfs.cli.options_sources import Parsed, load
from ferryfs.errors import OptionError
from ferryfs.passthrough.config import CachePolicy, HandleMode, IdRange, Ternary, Unlinked
from ferryfs.sandbox.idmappings import IdMapping

NEEDED = ["--shared-dir=/srv", "--socket-path=/run/fs.sock"]


def parse(*argv: str, environ: dict[str, str] | None = None, file: str = "/nonexistent") -> Parsed:
    return load(argv, environ or {}, file)


def options(*argv: str) -> Options:
    return parse(*argv).options


def refusal(*argv: str, uid: int = 0) -> str:
    with pytest.raises(OptionError) as caught:
        options_rules.check(options(*argv), uid)
    return str(caught.value)


def test_defaults_are_virtiofsds() -> None:
    given = options(*NEEDED)
    assert given.cache is CachePolicy.AUTO
    assert given.inode_file_handles is HandleMode.PREFER
    assert given.sandbox is SandboxMode.NAMESPACE
    assert given.seccomp is SeccompAction.KILL
    assert given.posix_acl is Ternary.NEVER
    assert given.security_label is Ternary.NEVER
    assert given.log_level is LogLevel.INFO
    assert given.announce_submounts
    assert given.readdirplus
    assert not given.uses_xattr()
    assert options_rules.check(given, 0) == []


# Every option of `virtiofsd --help` of 1.14.0, in each of its spellings, and the field that it must set.
VIRTIOFSD = [
    (["--tag", "fs"], "tag", "fs"),
    (["--socket=/s"], "socket_path", "/s"),
    (["--socket-path=/p", "--socket=/s"], "socket_path", "/p"),
    (["--socket-group", "kvm"], "socket_group", "kvm"),
    (["--fd=3"], "fd", 3),
    (["--thread-pool-size=64"], "thread_pool_size", 64),
    (["--xattr"], "xattr", True),
    (["--posix-acl"], "posix_acl", Ternary.ALWAYS),
    (["--posix-acl=auto"], "posix_acl", Ternary.AUTO),
    (["--posix-acl=never"], "posix_acl", Ternary.NEVER),
    (["--sandbox", "chroot"], "sandbox", SandboxMode.CHROOT),
    (["--sandbox=None"], "sandbox", SandboxMode.NONE),
    (["--readonly"], "readonly", True),
    (["--seccomp=trap"], "seccomp", SeccompAction.TRAP),
    (["--seccomp", "log"], "seccomp", SeccompAction.LOG),
    (["--announce-submounts"], "announce_submounts", True),
    (["--no-announce-submounts"], "announce_submounts", False),
    (["--no-announce-submounts", "--announce-submounts"], "announce_submounts", True),
    (["--inode-file-handles=never"], "inode_file_handles", HandleMode.NEVER),
    (["--inode-file-handles=fallback"], "inode_file_handles", HandleMode.PREFER),
    (["--inode-file-handles=mandatory"], "inode_file_handles", HandleMode.MANDATORY),
    (["--cache=always"], "cache", CachePolicy.ALWAYS),
    (["--cache", "metadata"], "cache", CachePolicy.METADATA),
    (["--cache=auto", "--cache=never"], "cache", CachePolicy.NEVER),
    (["--allow-mmap"], "allow_mmap", True),
    (["--no-readdirplus"], "readdirplus", False),
    (["--writeback"], "writeback", True),
    (["--allow-direct-io"], "allow_direct_io", True),
    (["--modcaps=+sys_admin:-chown"], "modcaps", ("+sys_admin", "-chown")),
    (["--modcaps", "-CAP_MKNOD"], "modcaps", ("-mknod",)),
    (["--log-level=TRACE"], "log_level", LogLevel.TRACE),
    (["--syslog"], "syslog", True),
    (["--rlimit-nofile=0"], "rlimit_nofile", 0),
    (["-d"], "compat_debug", True),
    (["-df"], "compat_foreground", True),
    (["--killpriv-v2"], "killpriv_v2", True),
    (["--killpriv-v2", "--no-killpriv-v2"], "killpriv_v2", False),
    (["--security-label"], "security_label", Ternary.ALWAYS),
    (["--security-label=auto"], "security_label", Ternary.AUTO),
    (["--uid-map=:0:100000:65536:"], "uid_map", (IdMapping(0, 100000, 65536),)),
    (
        ["--gid-map", "/0/1000/1/", "--gid-map=:1:100000:9:"],
        "gid_map",
        (IdMapping(0, 1000, 1), IdMapping(1, 100000, 9)),
    ),
    (["--translate-uid=map:0:1000:1"], "translate_uid", (IdRange("map", 0, 1000, 1),)),
    (["--translate-gid", "forbid-guest:1:2"], "translate_gid", (IdRange("forbid-guest", 1, 0, 2),)),
    (["--preserve-noatime"], "preserve_noatime", True),
    (["--migration-verify-handles"], "migration_verify_handles", True),
    (["--migration-confirm-paths"], "migration_confirm_paths", True),
    (["-o", "source=/srv,,x"], "shared_dir", "/srv,x"),
    (["-oxattr"], "xattr", True),
    (["--xattr", "-o", "no_xattr"], "xattr", False),
    (["-o", "cache=none"], "cache", CachePolicy.NEVER),
    (["-o", "posix_acl,no_readdirplus"], "readdirplus", False),
    (["-o", "loglevel=err"], "log_level", LogLevel.ERROR),
]


@pytest.mark.parametrize(
    ("argv", "field", "value"), VIRTIOFSD, ids=lambda each: " ".join(each) if isinstance(each, list) else ""
)
def test_option_of_virtiofsd(argv: list[str], field: str, value: object) -> None:
    assert getattr(options(*argv), field) == value


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--cache=foo"], "--cache 'foo': must be one of never, metadata, auto, always"),
        (["--bogus"], "unknown option --bogus"),
        (["--readonl"], "did you mean --readonly?"),
        (["--xattr=1"], "--xattr takes no value, leave out '=1'"),
        (["--socket-path"], "--socket-path needs a value, write --socket-path=PATH"),
        (["--socket-path", "--shared-dir=/srv"], "--socket-path needs a value"),
        (["-o"], "-o needs a value"),
        (["extra"], "unexpected argument 'extra'"),
        (["--posix-acl", "auto"], "unexpected argument 'auto', write --posix-acl=auto"),
        (["--security-label", "Always"], "unexpected argument 'Always', write --security-label=Always"),
        (["--posix-acl", "/srv"], "unexpected argument '/srv', options begin with -- (try --shared-dir=/srv)"),
        (["--", "/srv"], "unexpected argument '/srv', options begin with -- (try --shared-dir=/srv)"),
        (["--", "--xattr"], "unexpected argument '--xattr', nothing is read after a lone --"),
        (["--tag", "--"], "--tag needs a value, write --tag=TAG"),
        (["-f=1"], "-f takes no value, leave out '=1'"),
        (["-df=1"], "-f takes no value, leave out '=1'"),
        (["-=1"], "unknown option -="),
        (["-o", ""], "-o '': has an empty part, write parts such as cache=auto, with one comma between two"),
        (["-o", "xattr,"], "-o 'xattr,': has an empty part"),
        (["--posix-acl=on"], "--posix-acl 'on': must be one of never, auto, always"),
        (["--tag="], "must be 1 to 36 bytes"),
        (["--tag=" + "é" * 19], "it has 38"),
        (["--thread-pool-size=-1"], "must be a whole number from 0"),
        (["--thread-pool-size=1e3"], "must be a whole number from 0"),
        (["--modcaps=+foo"], "unknown capability 'foo'"),
        (["--modcaps=chown"], "must be written +NAME or -NAME"),
        (["--uid-map=0:0:1"], "must be written :INSIDE:OUTSIDE:COUNT:"),
        (["--uid-map=:0:0:1"], "must be written :INSIDE:OUTSIDE:COUNT:"),
        (["--uid-map=:0:0:0:"], "must have a count of at least 1"),
        (["--translate-uid=foo:1:2:3"], "unknown type"),
        (["--xattrmap=foo"], "rule 1 ends in its type, write it as :TYPE:SCOPE:KEY:PREPEND: or :map:KEY:PREPEND:"),
        (["--xattrmap=/ok/all/"], "rule 1 ends in its key, write it as /TYPE/SCOPE/KEY/PREPEND/ or /map/KEY/PREPEND/"),
        (["--migration-unlinked-limit=much"], "must be a size such as"),
        (["--negative-timeout=nan"], "must be a number of seconds"),
        (["-o", "foo=bar"], "-o foo=bar: is unknown"),
        (["-o", "cache=never"], "-o cache=never: must be one of auto, always, none, metadata"),
        (["-x"], "unknown option -x"),
        (["--config=/nonexistent/x.toml"], "can't be read: No such file or directory"),
        (["--shared-dir="], "must be a path, not empty"),
    ],
)
def test_wrong_word_is_refused_with_what_is_right(argv: list[str], says: str) -> None:
    with pytest.raises(OptionError) as caught:
        options(*argv)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "uid", "says"),
    [
        (["--shared-dir=/srv"], 0, "no socket was given"),
        (["--socket-path=/s"], 0, "no directory to share was given"),
        ([*NEEDED, "--fd=3"], 0, "--fd can't be used with --socket-path"),
        (["--shared-dir=/srv", "--fd=3", "--socket-group=kvm"], 0, "--fd can't be used with --socket-group"),
        (
            [*NEEDED, "--posix-acl=auto", "--translate-uid=map:0:0:1"],
            0,
            "--translate-uid can't be used with --posix-acl",
        ),
        ([*NEEDED, "--translate-uid=map:0:0:9", "--translate-uid=guest:8:0:1"], 0, "both translate guest id 8"),
        ([*NEEDED, "--uid-map=:0:0:1:"], 0, "--uid-map is for ordinary users"),
        ([*NEEDED, "--uid-map=:0:0:1:", "--sandbox=none"], 1000, "--uid-map is for --sandbox=namespace"),
        ([*NEEDED, "--sandbox=chroot"], 1000, "--sandbox=chroot is for root only"),
        (
            [*NEEDED, "--migration-mode=file-handles", "--migration-confirm-paths"],
            0,
            "--migration-confirm-paths is about",
        ),
        (
            [*NEEDED, "--migration-mode=file-handles", "--migration-verify-handles"],
            0,
            "--migration-verify-handles is about",
        ),
        (
            [*NEEDED, "--migration-mode=file-handles", "--migration-stream=v1"],
            0,
            "--migration-stream=v1 has paths only",
        ),
        ([*NEEDED, "--inode-file-handles=mandatory", "--modcaps=-dac_read_search"], 0, "takes away what"),
    ],
)
def test_what_cannot_be_together(argv: list[str], uid: int, says: str) -> None:
    assert says in refusal(*argv, uid=uid)


def test_translation_is_allowed_with_acls_switched_off() -> None:
    assert options_rules.check(options(*NEEDED, "--posix-acl=never", "--translate-uid=map:0:0:1"), 0) == []


@pytest.mark.parametrize(
    "argv",
    [
        ["-f"],
        ["-d"],
        ["--socket=/s"],
        ["-o", "xattr"],
        ["-o", "flock"],
        ["--inode-file-handles=fallback"],
    ],
)
def test_deprecated_form_is_warned_about(argv: list[str]) -> None:
    assert parse(*argv).warnings


def test_precedence_and_origins(tmp_path: Path) -> None:
    file = tmp_path / "ferryfsd.toml"
    file.write_text(
        'shared-dir = "/file"\ncache = "never"\nwriteback = true\nreaddirplus = false\ntranslate-uid = ["map:0:1:1"]\n'
    )
    parsed = parse("--cache=always", environ={"FERRYFSD_SHARED_DIR": "/env", "FERRYFSD_CACHE": "auto"}, file=str(file))
    assert parsed.options.cache is CachePolicy.ALWAYS
    assert parsed.options.shared_dir == "/env"
    assert parsed.options.writeback
    assert not parsed.options.readdirplus
    assert parsed.options.translate_uid == (IdRange("map", 0, 1, 1),)
    assert parsed.origins == {
        "cache": "command line",
        "shared_dir": "environment",
        "writeback": str(file),
        "readdirplus": str(file),
        "translate_uid": str(file),
    }
    shown = [line.split() for line in options_text.show_config(parsed, {}).splitlines()]
    assert ["translate-uid", "map:0:1:1", str(file)] in shown
    assert ["xattr", "false", "default"] in shown


@pytest.mark.parametrize(
    ("environ", "file", "argv", "dropped", "kept"),
    [
        ({}, 'socket-path = "/f"', ["--fd=3"], "socket_path", "fd"),
        ({}, 'socket = "/f"', ["--fd=3"], "socket_path", "fd"),
        ({"SOCKET_PATH": "/e"}, "", ["--fd=3"], "socket_path", "fd"),
        ({"FD": "3"}, 'socket-path = "/f"', [], "socket_path", "fd"),
        ({"SOCKET_GROUP": "kvm"}, "", ["--fd=3"], "socket_group", "fd"),
        ({"FD": "3"}, "", ["--socket-path=/c"], "fd", "socket_path"),
        ({"FD": "3"}, "", ["--socket=/c"], "fd", "socket_path"),
        ({"POSIX_ACL": "auto"}, "", ["--fd=3", "--translate-uid=map:0:0:1"], "posix_acl", "translate_uid"),
        ({}, 'posix-acl = "always"', ["--fd=3", "--translate-gid=map:0:0:1"], "posix_acl", "translate_gid"),
        ({"UID_MAP": ":0:1000:1:"}, "", ["--fd=3", "--sandbox=none"], "uid_map", "sandbox"),
        ({}, 'gid-map = [":0:1000:1:"]', ["--fd=3", "--sandbox=none"], "gid_map", "sandbox"),
        ({"SANDBOX": "none"}, "", ["--fd=3", "--uid-map=:0:1000:1:"], "sandbox", "uid_map"),
        (
            {},
            "migration-verify-handles = true",
            ["--fd=3", "--migration-mode=file-handles"],
            "migration_verify_handles",
            "migration_mode",
        ),
        (
            {"MIGRATION_MODE": "file-handles"},
            "",
            ["--fd=3", "--migration-confirm-paths"],
            "migration_mode",
            "migration_confirm_paths",
        ),
    ],
)
def test_what_the_higher_source_excludes_is_dropped(
    tmp_path: Path, environ: dict[str, str], file: str, argv: list[str], dropped: str, kept: str
) -> None:
    place = tmp_path / "f.toml"
    place.write_text(file)
    environ = {f"FERRYFSD_{name}": text for name, text in environ.items()}
    parsed = parse("--shared-dir=/srv", *argv, environ=environ, file=str(place))
    assert parsed.check(uid=1000) == (["--socket is deprecated, write --socket-path"] if "--socket=/c" in argv else [])
    assert getattr(parsed.options, dropped) == getattr(Options(), dropped)
    assert getattr(parsed.options, kept) != getattr(Options(), kept)
    (note,) = parsed.notes
    assert note.startswith(
        f"{key_of(dropped)} of the {f'file {place}' if file else 'environment'} is not used, because"
    )
    assert note.endswith(f"{'command line' if argv else 'environment'} has {key_of(kept)}")
    shown = {line.split()[0]: line.split()[-1] for line in options_text.show_config(parsed, {}).splitlines()}
    assert shown[key_of(dropped)] == "default"


@pytest.mark.parametrize("argv", [["--translate-uid=map:0:0:1"], ["--fd=3", "--posix-acl=never"]])
def test_what_excludes_nothing_drops_nothing(tmp_path: Path, argv: list[str]) -> None:
    file = tmp_path / "f.toml"
    file.write_text('posix-acl = "never"\ntranslate-uid = ["map:0:0:1"]\nmigration-confirm-paths = false\n')
    parsed = parse("--migration-mode=file-handles", *argv, file=str(file))
    assert parsed.notes == []
    assert parsed.options.translate_uid


def test_old_name_of_the_socket_on_the_command_line_wins_too() -> None:
    parsed = parse("--socket=/c", environ={"FERRYFSD_SOCKET_PATH": "/e"})
    assert parsed.options.socket_path == "/c"
    assert parsed.origins["socket_path"] == "command line"


@pytest.mark.parametrize(
    ("environ", "file", "argv", "ends"),
    [
        # A translation confines the guest: it is not dropped for an option that doesn't speak of it.
        ({}, 'translate-uid = ["map:0:0:1"]', ["--posix-acl"], "(--translate-uid is set in {file})"),
        ({"TRANSLATE_GID": "map:0:0:1"}, "", ["--posix-acl"], "(--translate-gid is FERRYFSD_TRANSLATE_GID)"),
        ({"MODCAPS": "-dac_read_search"}, "", ["--inode-file-handles=mandatory"], "(--modcaps is FERRYFSD_MODCAPS)"),
        ({}, 'fd = 3\nsocket-group = "kvm"', [], "(--fd is set in {file}, --socket-group is set in {file})"),
        ({}, 'translate-uid = ["map:0:0:9", "map:8:8:1"]', [], "(--translate-uid is set in {file})"),
        ({"SANDBOX": "chroot"}, "", [], "(or --sandbox=none) (--sandbox is FERRYFSD_SANDBOX)"),
    ],
)
def test_errors_name_the_source(tmp_path: Path, environ: dict[str, str], file: str, argv: list[str], ends: str) -> None:
    place = tmp_path / "f.toml"
    place.write_text(file)
    words = ["--shared-dir=/srv", *argv, *([] if "fd" in file else ["--socket-path=/s"])]
    parsed = parse(*words, environ={f"FERRYFSD_{name}": text for name, text in environ.items()}, file=str(place))
    with pytest.raises(OptionError) as caught:
        parsed.check(uid=1000)
    assert str(caught.value).endswith(ends.format(file=place))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("shared_folder = 1", "'shared_folder' is not an option"),
        ("cache = true", "cache = true: must be one of never, metadata, auto, always"),
        ("posix-acl = true", "posix-acl = true: must be one of never, auto, always"),
        ("rlimit-nofile = false", "rlimit-nofile = false: must be a whole number"),
        ("tag = true", "tag = true: must be a text or a number"),
        ("uid-map = [true]", "uid-map = true: must be a list of texts"),
        ('cache = ["a"]', "takes one value and not a list"),
        ('xattr = "yes"', "must be true or false, without quotes"),
        ("translate-uid = [1.5]", "unknown type"),
        ("= 1", "is not TOML"),
        ("help = true", "'help' is not an option"),
        ('config = "x"', "'config' is not an option"),
    ],
)
def test_wrong_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "f.toml"
    file.write_text(text)
    with pytest.raises(OptionError) as caught:
        parse(f"--config={file}")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "environ", "file", "begins"),
    [
        (["--config=/none"], {}, "", "--config=/none: can't be read: No such"),
        ([], {"FERRYFSD_CONFIG": "/none"}, "", "FERRYFSD_CONFIG=/none: can't be read: No such"),
        ([], {}, "/proc/self/fd", "the file /proc/self/fd: can't be read: Is a directory"),
        ([], {}, "/bin/sh", "the file /bin/sh: is not TOML: "),
    ],
)
def test_file_that_is_none(argv: list[str], environ: dict[str, str], file: str, begins: str) -> None:
    """Who named it is in the sentence: nobody who typed no --config should look for it in his words."""
    with pytest.raises(OptionError) as caught:
        parse(*argv, environ=environ, file=file)
    assert str(caught.value).startswith(begins)
    if "can't be read" in begins:
        assert str(caught.value).endswith("(--config=/dev/null reads none)")


def test_no_file_at_all(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text('tag = "x"\n')
    assert parse("--config=/dev/null", file=str(file)).options == Options(config="/dev/null")


def test_endless_file_is_refused() -> None:
    with pytest.raises(OptionError, match="larger than"):
        parse("--config=/dev/zero")


def test_environment_of_kubernetes_is_only_warned_about() -> None:
    parsed = parse(environ={"FERRYFSD_SERVICE_HOST": "10.0.0.1"})
    assert parsed.warnings == ["the environment variable FERRYFSD_SERVICE_HOST names no option and is not used"]


def test_empty_variables_are_as_none() -> None:
    """So a service's `Environment=` or a compose file without a value leaves an option alone."""
    parsed = parse(environ={f"FERRYFSD_{name.upper()}": "" for name in ("config", "cache", "xattr", "uid_map", "fd")})
    assert parsed.options == Options()
    assert parsed.origins == {}


def test_environment_switches_and_lists() -> None:
    given = parse(
        environ={"FERRYFSD_XATTR": "yes", "FERRYFSD_ANNOUNCE_SUBMOUNTS": "0", "FERRYFSD_UID_MAP": ":0:1:1: :1:2:3:"}
    )
    assert given.options.xattr
    assert not given.options.announce_submounts
    assert len(given.options.uid_map) == 2
    with pytest.raises(OptionError, match="FERRYFSD_XATTR 'perhaps': must be true or false"):
        parse(environ={"FERRYFSD_XATTR": "perhaps"})


@pytest.mark.parametrize("word", ["--help", "-h", "--version", "-V", "--print-capabilities"])
def test_what_only_prints_asks_neither_file_nor_environment(tmp_path: Path, word: str) -> None:
    """A manager that asks what the program can do gets its answer, whatever an administrator has written."""
    file = tmp_path / "f.toml"
    file.write_text("nonsense = = =\n")
    environ = {"FERRYFSD_CACHE": "foo", "FERRYFSD_SOCKET_GROUP": "kvm", "FERRYFSD_CONFIG": str(file)}
    for parsed in (
        parse(word, environ=environ),
        parse(word, file=str(file)),
        parse(word, f"--config={file}"),
        parse(f"--config={file}", word),
    ):
        assert parsed.options.socket_group is None
        assert parsed.warnings == []


@pytest.mark.parametrize("word", ["--help", "-h", "--version", "-V", "-fV"])
def test_nothing_is_read_after_help_or_version(word: str) -> None:
    options(word, "--bogus", "extra", "--cache")
    with pytest.raises(OptionError, match="unknown option --bogus"):
        options("--bogus", word)
    with pytest.raises(OptionError, match="unknown option --bogus"):
        options("--print-capabilities", "--bogus")


SWITCHES = [name for name, row in table().items() if row.parse is None and not row.command_line_only]


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_of_the_file_is_undone_on_the_command_line(tmp_path: Path, name: str) -> None:
    file = tmp_path / "f.toml"
    for value, other in (("true", f"--no-{key_of(name)}"), ("false", f"--{key_of(name)}")):
        file.write_text(f"{key_of(name)} = {value}\n")
        assert getattr(parse(file=str(file)).options, name) is (value == "true")
        assert getattr(parse(other, file=str(file)).options, name) is (value == "false")
        # As with virtiofsd's pairs, the last counts.
        assert getattr(options(f"--no-{key_of(name)}", f"--{key_of(name)}"), name) is True


@pytest.mark.parametrize("word", ["--no-help", "--no-version", "--no-check", "--no-show-config", "--no-cache"])
def test_what_is_no_switch_has_no_opposite(word: str) -> None:
    with pytest.raises(OptionError, match=f"unknown option {word}"):
        options(word)


def test_attributes_that_are_implied_all_the_same() -> None:
    parsed = parse(*NEEDED, "--no-xattr", environ={"FERRYFSD_POSIX_ACL": "auto"})
    (warning,) = parsed.check(0)
    assert warning == (
        "--no-xattr has no effect with --posix-acl=auto, which can't do without extended attributes "
        "(--posix-acl is FERRYFSD_POSIX_ACL)"
    )
    assert parse(*NEEDED, "--no-xattr").check(0) == []


@pytest.mark.parametrize(
    ("text", "readdirplus"), [("true", False), ("false", True)], ids=["no-readdirplus", "not-no-readdirplus"]
)
def test_switch_by_its_negative_name(tmp_path: Path, text: str, readdirplus: bool) -> None:
    """The option is called --no-readdirplus, so its name in a file may be too."""
    file = tmp_path / "f.toml"
    file.write_text(f"no-readdirplus = {text}\nno_xattr = {text}\n")
    of_file = parse(file=str(file))
    of_environment = parse(environ={"FERRYFSD_NO_READDIRPLUS": text, "FERRYFSD_NO_XATTR": text})
    for parsed in (of_file, of_environment):
        assert parsed.options.readdirplus is readdirplus
        assert parsed.options.xattr is readdirplus
        assert parsed.warnings == []
        shown = {line.split()[0]: line.split()[1] for line in options_text.show_config(parsed, {}).splitlines()}
        assert shown["readdirplus"] == str(readdirplus).lower()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('no-readdirplus = "x"', "no-readdirplus = 'x': must be true or false, without quotes"),
        ("no-readdirplus = true\nreaddirplus = true", "readdirplus is there twice, as no-readdirplus and readdirplus"),
        ('shared-dir = "/a"\nshared_dir = "/b"', "shared-dir is there twice, as shared-dir and shared_dir"),
        ("no-cache = true", "'no-cache' is not an option"),
        ("no-help = true", "'no-help' is not an option"),
    ],
)
def test_wrong_names_of_a_file(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "f.toml"
    file.write_text(text)
    with pytest.raises(OptionError) as caught:
        parse(f"--config={file}")
    assert str(caught.value).startswith(f"{file}: {says}")


def test_both_names_in_the_environment() -> None:
    with pytest.raises(OptionError, match="FERRYFSD_NO_XATTR and FERRYFSD_XATTR are the same option, leave one of"):
        parse(environ={"FERRYFSD_XATTR": "1", "FERRYFSD_NO_XATTR": "0"})
    with pytest.raises(OptionError, match="FERRYFSD_NO_XATTR 'perhaps': must be true or false"):
        parse(environ={"FERRYFSD_NO_XATTR": "perhaps"})


def test_what_implies_xattr() -> None:
    for each in ("--posix-acl=auto", "--security-label", "--xattrmap=:ok:all:::", "--xattr"):
        assert options(each).uses_xattr()


@pytest.mark.parametrize(("size", "bounded"), [("1024", 1024), ("1025", 1024), (str(2**64 - 1), 1024), ("0", 0)])
def test_pool_has_a_bound_and_its_option_has_none(size: str, bounded: int) -> None:
    """virtiofsd takes every number that a machine word holds."""
    given = options(*NEEDED, f"--thread-pool-size={size}")
    assert given.share(0).thread_pool_size == given.pool_size() == bounded
    warnings = options_rules.check(given, 0)
    if int(size) > 1024:
        assert warnings == [f"--thread-pool-size={size}: 1024 threads are as many as it makes"]
    else:
        assert warnings == []


def test_lone_dashes_end_the_options() -> None:
    assert options(*NEEDED, "--") == options(*NEEDED)


@pytest.mark.parametrize(
    ("argv", "environ", "key", "shown"),
    [
        (["-d"], {}, "log-level", "debug command line"),
        (["-d", "--log-level=warn", "-o", "loglevel=err"], {}, "log-level", "debug command line"),
        (["-d"], {"RUST_LOG": "trace"}, "log-level", "trace RUST_LOG"),
        ([], {"RUST_LOG": "virtiofsd=warn,vhost=trace"}, "log-level", "warn RUST_LOG"),
        ([], {"RUST_LOG": "vhost=trace"}, "log-level", "info default"),
        # Only the log on stderr listens to it.
        (["--syslog"], {"RUST_LOG": "trace"}, "log-level", "info default"),
        (["--socket=/x"], {}, "socket-path", "/x command line"),
        (["--posix-acl"], {}, "xattr", "true implied by --posix-acl=always"),
        (["--no-xattr"], {"FERRYFSD_SECURITY_LABEL": "auto"}, "xattr", "true implied by --security-label=auto"),
        (["--xattrmap=:ok:all:::"], {}, "xattr", "true implied by --xattrmap"),
        (["--xattr", "--posix-acl"], {}, "xattr", "true command line"),
        (["--thread-pool-size=2000"], {}, "thread-pool-size", "2000 command line"),
    ],
)
def test_what_holds_is_shown(argv: list[str], environ: dict[str, str], key: str, shown: str) -> None:
    text = options_text.show_config(parse(*argv, environ=environ), environ)
    assert {" ".join(line.split()) for line in text.splitlines() if line.startswith(f"{key} ")} == {f"{key} {shown}"}
    assert not [line for line in text.splitlines() if line.startswith("socket ")]


def test_share_and_migration_carry_every_option() -> None:
    given = options("--cache=never", "--readonly", "--migration-unlinked=lost", "--migration-unlinked-limit=1G")
    share = given.share(1000)
    assert share.readonly
    assert not share.readdirplus
    assert share.guest_fd_limit == 1000
    assert given.migration().unlinked is Unlinked.LOST
    assert given.migration().unlinked_limit == 1 << 30


def test_help_names_every_option_and_fits() -> None:
    text = options_text.help_text()
    for name in table():
        assert flag(name) in text
    assert max(map(len, text.splitlines())) <= options_text.WIDTH


def test_every_default_is_shown_as_it_could_be_written() -> None:
    # The default written out must parse to the default: the table can't contradict itself.
    for name, row in table().items():
        default = getattr(Options(), name)
        if row.parse is not None and not row.many and default not in (None, ()) and not row.default_text:
            assert row.parse(options_text.default_text(name, row)) == default
