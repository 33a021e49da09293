"""``ferryfsd`` as a process: what those who start virtiofsd rely on, and what our own options do.

Each daemon is a real one, and a front-end's connection is a real connection; what a mount sees is tried elsewhere.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from ferryfs.frontend.client import VhostUserClient
from ferryfs.sandbox import capabilities
from ferryfs.wire.vhost_user import ProtocolFeature

MODES = ("namespace", "chroot", "none")
READY = "Waiting for vhost-user socket connection..."
PROGRAM = "import sys; from ferryfs.cli.daemon import main; sys.argv[0] = 'ferryfsd'; main()"
COMMAND = [sys.executable, "-I", "-c", PROGRAM]

Start = Callable[..., subprocess.Popen[str]]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox modes are root's: run the tests as root")


@pytest.fixture
def share(tmp_path: Path) -> Path:
    folder = tmp_path / "share"
    folder.mkdir()
    return folder


@pytest.fixture
def start(share: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a daemon on ``tmp_path/s`` and wait for its line on stderr."""
    processes: list[subprocess.Popen[str]] = []

    def run(*options: str, ready: bool = True, **more: object) -> subprocess.Popen[str]:
        words = [*COMMAND, f"--shared-dir={share}", *options]
        if not any(option.startswith("--fd") for option in options):
            words.append(f"--socket-path={tmp_path / 's'}")
        fds = [int(option[5:]) for option in options if option.startswith("--fd=")]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, pass_fds=fds, cwd=tmp_path)
        processes.append(process)
        if ready:
            wait_for_line(process.stderr)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def wait_for_line(stream: IO[str] | None) -> str:
    """Until the daemon is ready; what it wrote before."""
    assert stream is not None
    seen = []
    for line in stream:
        if READY in line:
            return "".join(seen)
        seen.append(line)
    pytest.fail(f"the daemon ended without being ready: {''.join(seen)}")


def connect(path: Path) -> socket.socket:
    front_end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    front_end.connect(str(path))
    return front_end


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False, env=env, timeout=60)


@as_root
@pytest.mark.parametrize("mode", MODES)
class TestModes:
    def test_ends_with_the_front_end(self, start: Start, tmp_path: Path, mode: str) -> None:
        daemon = start(f"--sandbox={mode}")
        connect(tmp_path / "s").close()
        assert daemon.wait(30) == 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_signal_ends_it_in_order(self, start: Start, mode: str, number: int) -> None:
        daemon = start(f"--sandbox={mode}")
        daemon.send_signal(number)
        assert daemon.wait(30) == 0

    def test_signal_ends_it_while_connected(self, start: Start, tmp_path: Path, mode: str) -> None:
        daemon = start(f"--sandbox={mode}")
        with connect(tmp_path / "s"):
            daemon.terminate()
            assert daemon.wait(30) == 0

    def test_pid_file_names_the_started_process_and_is_locked(self, start: Start, tmp_path: Path, mode: str) -> None:
        daemon = start(f"--sandbox={mode}")
        assert int((tmp_path / "s.pid").read_text()) == daemon.pid
        second = start(f"--sandbox={mode}", ready=False)
        assert second.wait(30) == 1
        assert second.stderr is not None
        assert f"in use by {daemon.pid}" in second.stderr.read()
        assert daemon.poll() is None

    def test_keeps_listening(self, start: Start, tmp_path: Path, mode: str) -> None:
        daemon = start(f"--sandbox={mode}", "--keep-listening")
        for _ in range(3):
            connect(tmp_path / "s").close()
        assert daemon.poll() is None
        daemon.terminate()
        assert daemon.wait(30) == 0

    def test_socket_that_already_listens(self, start: Start, tmp_path: Path, mode: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(str(tmp_path / "given"))
            listening.listen()
            daemon = start(f"--sandbox={mode}", f"--fd={listening.fileno()}")
        connect(tmp_path / "given").close()
        assert daemon.wait(30) == 0


@as_root
def test_socket_belongs_to_its_owner_or_a_group(start: Start, tmp_path: Path) -> None:
    daemon = start("--sandbox=none")
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    daemon.terminate()
    daemon.wait(30)
    start("--sandbox=none", "--socket-group=daemon")
    status = (tmp_path / "s").stat()
    assert status.st_mode & 0o777 == 0o770
    assert status.st_gid == __import__("grp").getgrnam("daemon").gr_gid


def test_unknown_group_is_named(start: Start) -> None:
    daemon = start("--sandbox=none", "--socket-group=no-such-group", ready=False)
    assert daemon.wait(30) == 2
    assert daemon.stderr is not None
    assert "--socket-group=no-such-group: there is no such group" in daemon.stderr.read()


def test_wrong_words_give_status_2_and_a_hint() -> None:
    done = run("--cache=foo")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --cache 'foo': must be one of")
    assert "try '--help'" in done.stderr
    assert done.stdout == ""


def test_no_words_at_all_show_the_options() -> None:
    done = run(env={})
    assert done.returncode == 2
    assert "--shared-dir=DIR" in done.stderr


def test_share_that_is_not_there() -> None:
    done = run("--shared-dir=/does/not/exist", "--socket-path=s")
    assert done.returncode == 2
    assert "--shared-dir=/does/not/exist: does not exist" in done.stderr


def test_share_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The sentence leads to the place that has to be changed."""
    file = tmp_path / "f.toml"
    file.write_text('shared-dir = "/does/not/exist"\n')
    done = run("--socket-path=s", env={"FERRYFSD_CONFIG": str(file)})
    assert done.returncode == 2
    sentence = f"--shared-dir=/does/not/exist: does not exist, create it first (--shared-dir is set in {file})"
    assert sentence in done.stderr


def test_socket_of_a_manager_takes_the_place_of_the_hosts(start: Start, tmp_path: Path) -> None:
    """libvirt and others pass --fd: a socket-path for the daemons of the host is no error then."""
    file = tmp_path / "f.toml"
    file.write_text('socket-path = "/run/ferry.sock"\nsocket-group = "daemon"\n')
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "given"))
        listening.listen()
        daemon = start("--sandbox=none", f"--config={file}", f"--fd={listening.fileno()}", ready=False)
        assert daemon.stderr is not None
        said = daemon.stderr.readline()
        assert f"INFO  ferryfsd] socket-path of the file {file} is not used" in said
        wait_for_line(daemon.stderr)
    connect(tmp_path / "given").close()
    assert daemon.wait(30) == 0


def test_capabilities_for_managers() -> None:
    done = run("--print-capabilities")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {
        "type": "fs",
        "features": [
            "migrate-precopy",
            "posix-acl-negotiation-mode",
            "security-label-negotiation-mode",
            "separate-options",
        ],
    }


@pytest.mark.parametrize("word", ["--help", "-h", "--version", "-V"])
def test_text_on_stdout_and_status_0(word: str) -> None:
    done = run(word)
    assert done.returncode == 0
    assert "ferryfsd" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("words", ["--help", "--version", "--shared-dir=. --check"])
def test_text_that_can_not_be_written(words: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, *words.split()], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: standard output can't be written: No space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("word", ["--help", "--version", "--print-capabilities"])
def test_text_and_status_0_whatever_file_and_environment_say(tmp_path: Path, word: str) -> None:
    file = tmp_path / "f.toml"
    file.write_text('cache = "foo"\nsocket-group = "kvm"\n')
    done = run(word, env={"FERRYFSD_CONFIG": str(file), "FERRYFSD_THREAD_POOL_SIZE": "many"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run(word, env={}).stdout


@pytest.mark.parametrize(
    ("level", "rust_log", "lines"),
    [("info", None, True), ("off", None, False), ("info", "error", False), ("off", "x", False)],
)
def test_log_level_and_rust_log(share: Path, tmp_path: Path, level: str, rust_log: str | None, lines: bool) -> None:
    env = {} if rust_log is None else {"RUST_LOG": rust_log}
    words = [
        *COMMAND,
        f"--shared-dir={share}",
        f"--socket-path={tmp_path / 's'}",
        "--sandbox=none",
        "-f",
        f"--log-level={level}",
    ]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=env) as daemon:
        assert daemon.stderr is not None
        first = daemon.stderr.readline()
        daemon.terminate()
        rest = daemon.stderr.read()
    assert ("WARN  ferryfsd] -f has no effect" in first + rest) is lines


def test_json_log_is_an_object_a_line(start: Start) -> None:
    daemon = start("--sandbox=none", "--log-format=json", "-f", ready=False)
    assert daemon.stderr is not None
    entry = json.loads(daemon.stderr.readline())
    assert entry["level"] == "warn"
    assert entry["message"] == "-f has no effect, leave it out"


def test_show_config_names_the_source(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text('cache = "always"\n')
    done = run(f"--config={file}", "--show-config", "--xattr", env={"FERRYFSD_READONLY": "1", "RUST_LOG": "warn"})
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert rows["cache"] == ["always", str(file)]
    assert rows["readonly"] == ["1", "environment"]
    assert rows["xattr"] == ["true", "command", "line"]
    assert rows["log-level"] == ["warn", "RUST_LOG"]


def test_readiness_is_told_to_systemd(share: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        words = [*COMMAND, f"--shared-dir={share}", f"--socket-path={tmp_path / 's'}", "--sandbox=none"]
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with subprocess.Popen(words, stderr=subprocess.DEVNULL, env=env) as daemon:
            assert systemd.recv(64) == b"READY=1"
            daemon.terminate()
            assert systemd.recv(64) == b"STOPPING=1"


# In a mount namespace of its own, a /dev with what a program needs, and maybe with a log to write to.
PRIVATE_DEV = """
mkdir dev && mount -t tmpfs none dev
for name in null zero urandom $LOG; do touch dev/$name; done
for name in null zero urandom; do mount --bind /dev/$name dev/$name; done
test -z "$LOG" || mount --bind "$LOG" dev/"$LOG"
mount --rbind dev /dev
exec "$@"
"""


def logged(tmp_path: Path, share: Path, log: str) -> str:
    """A daemon with --syslog that serves one front-end in its sandbox: what it wrote on stderr."""
    words = [*COMMAND, f"--shared-dir={share}", f"--socket-path={tmp_path / 's'}", "--syslog", "-f"]
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", PRIVATE_DEV, "sh", *words]
    environ = os.environ | {"LOG": log}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environ) as daemon:
        assert daemon.stderr is not None
        lines = [daemon.stderr.readline()]
        while lines[-1] and READY not in lines[-1]:
            lines.append(daemon.stderr.readline())
        connect(tmp_path / "s").close()
        lines.append(daemon.stderr.read())
        assert daemon.wait(30) == 0
        return "".join(lines)


@as_root
def test_syslog_gets_the_log(tmp_path: Path, share: Path) -> None:
    """From before the sandbox closes, and from inside; the line that managers wait for stays on stderr."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslogd:
        syslogd.bind(str(tmp_path / "log"))
        syslogd.setblocking(False)
        stderr = logged(tmp_path, share, "log")
        received = []
        with contextlib.suppress(BlockingIOError):
            while True:
                received.append(syslogd.recv(4096).decode())
    assert stderr.splitlines() == [line for line in stderr.splitlines() if READY in line]
    pattern = re.compile(r"<(\d+)>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d ferryfsd\[\d+\]: (.*)", re.DOTALL)
    parsed = [pattern.fullmatch(line) for line in received]
    assert all(parsed), received
    said = {match[2]: int(match[1]) for match in parsed if match}
    # user.warning and user.info
    assert said["-f has no effect, leave it out"] == 8 + 4
    assert next(priority for text, priority in said.items() if text.startswith("The front-end is gone")) == 8 + 6


@as_root
def test_without_a_syslog_the_log_goes_to_stderr(tmp_path: Path, share: Path) -> None:
    stderr = logged(tmp_path, share, "")
    assert "--syslog: /dev/log can't be reached (No such file or directory), the log goes to stderr" in stderr
    assert "-f has no effect" in stderr
    assert "The front-end is gone" in stderr


@pytest.fixture
def without_xattrs(share: Path) -> Iterator[None]:
    """The share is a file system that has no extended attributes for users."""
    subprocess.run(["mount", "-t", "ramfs", "none", share], check=True)
    yield
    subprocess.run(["umount", share], check=True)


def test_size_of_core_files(start: Start) -> None:
    daemon = start("--sandbox=none", "--rlimit-core=4096")
    limits = Path(f"/proc/{daemon.pid}/limits").read_text()
    [line] = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert line.split()[4:6] == ["4096", "4096"]


CONTAINER = "new namespaces need CAP_SYS_ADMIN, which this process lacks (as usual in a container): write --sandbox="


@as_root
@pytest.mark.parametrize(
    ("without", "option", "says"),
    [
        ("-sys_admin", "", f"{CONTAINER}chroot"),
        ("-sys_admin,-sys_chroot", "", f"{CONTAINER}none"),
        ("-sys_chroot", "--sandbox=chroot", "it needs CAP_SYS_CHROOT; without it only --sandbox=none works"),
        ("-dac_read_search", "--inode-file-handles=mandatory", "write --inode-file-handles=prefer"),
    ],
)
def test_capability_that_is_missing(share: Path, tmp_path: Path, without: str, option: str, says: str) -> None:
    """What is missing is named, and what would work; which then does."""
    words = [f"--shared-dir={share}", f"--socket-path={tmp_path / 's'}"]
    command = ["setpriv", f"--bounding-set={without}", *COMMAND, *words]
    done = subprocess.run([*command, *filter(None, [option])], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode in (1, 2)
    sentence = done.stderr.splitlines()[-1]
    assert says in sentence
    works = re.findall(r"--[a-z-]+=[a-z]+", sentence)[-1]
    with subprocess.Popen([*command, works], stderr=subprocess.PIPE, text=True) as daemon:
        wait_for_line(daemon.stderr)
        daemon.terminate()
    assert daemon.returncode == 0


def test_too_few_files(share: Path, tmp_path: Path) -> None:
    done = run(f"--shared-dir={share}", f"--socket-path={tmp_path / 's'}", "--rlimit-nofile=300")
    assert done.returncode == 2
    assert "--rlimit-nofile=300: 300 open files are too few, the daemon itself needs" in done.stderr


@as_root
@pytest.mark.usefixtures("without_xattrs")
def test_xattr_on_a_file_system_without(start: Start, share: Path) -> None:
    done = run(f"--shared-dir={share}", "--check", "--xattr")
    assert done.returncode == 1
    assert "failed  xattr" in done.stdout
    daemon = start("--sandbox=none", "--xattr", ready=False)
    assert daemon.stderr is not None
    assert f"--xattr: the file system of {share} has no extended attributes for users" in daemon.stderr.readline()


@as_root
@pytest.mark.usefixtures("without_xattrs")
def test_what_implies_xattr_on_a_file_system_without(share: Path, tmp_path: Path) -> None:
    """Nobody has typed --xattr: the sentence is about the option that was."""
    file = tmp_path / "f.toml"
    file.write_text('posix-acl = "auto"\n')
    words = [*COMMAND, f"--shared-dir={share}", f"--socket-path={tmp_path / 's'}", "--sandbox=none"]
    with subprocess.Popen([*words, f"--config={file}"], stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        said = daemon.stderr.readline()
        daemon.terminate()
    assert f"--posix-acl=auto: the file system of {share} has no extended attributes for users" in said
    assert said.endswith(f"(--posix-acl is set in {file})\n")


def test_front_end_that_is_too_old_to_migrate(start: Start, tmp_path: Path) -> None:
    sentence = "The front-end can't transfer the device's state, so the guest can be neither migrated nor saved"
    for features, warned in ((ProtocolFeature.REPLY_ACK, True), (ProtocolFeature.DEVICE_STATE, False)):
        daemon = start("--sandbox=none")
        with VhostUserClient.connect(tmp_path / "s") as client:
            client.set_protocol_features(1 << features)
            client.get_features()
        assert daemon.wait(30) == 0
        assert daemon.stderr is not None
        assert (sentence in daemon.stderr.read()) is warned


@as_root
def test_check_tries_handles_of_each_mount_below_the_share(share: Path) -> None:
    (share / "proc").mkdir()
    subprocess.run(["mount", "-t", "proc", "none", share / "proc"], check=True)
    try:
        done = run(f"--shared-dir={share}", "--check")
    finally:
        subprocess.run(["umount", share / "proc"], check=True)
    found = {
        line.split()[3]: line.split()[0] for line in done.stdout.splitlines() if line[8:].startswith("file handles /")
    }
    assert found == {str(share): "ok", str(share / "proc"): "note"}


@as_root
def test_check_prints_a_table_and_serves_nothing(share: Path) -> None:
    done = run(f"--shared-dir={share}", "--check", "--inode-file-handles=never")
    assert done.returncode == 0
    subjects = [line[8:].split("  ")[0] for line in done.stdout.splitlines()]
    assert subjects[:3] == ["share", "open files", "sandbox namespace (chosen)"]
    assert all(line.split()[0] in ("ok", "note", "failed") for line in done.stdout.splitlines())


@as_root
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--socket-path={tmp}/none/s", "--socket-path={tmp}/none/s: there is no directory {tmp}/none, create it first"),
        ("--socket-path={tmp}/file", "{tmp}/file exists and is not a socket: choose another --socket-path, or remove"),
        ("--socket-path={tmp}/" + "x" * 120, "The socket {tmp}/" + "x" * 120 + " can't be made: "),
        ("--socket-path={tmp}/s --socket-group=nobody-has-it", "--socket-group=nobody-has-it: there is no such group"),
        ("--fd=77", "--fd=77 is not a socket: Bad file descriptor."),
        ("--modcaps=+sys_boot", "--modcaps=+sys_boot: ferryfsd was started without CAP_SYS_BOOT, start it with that"),
        ("--rlimit-core=1G", "--rlimit-core=1073741824: is above the limit 0 of whoever starts ferryfsd"),
    ],
)
def test_check_finds_what_the_start_finds(share: Path, tmp_path: Path, options: str, says: str) -> None:
    """The same sentence of both, and status 0 of neither; and nothing is left of the attempt."""
    (tmp_path / "file").touch()
    words = [option.format(tmp=tmp_path) for option in options.split()]
    if "--fd" not in options and "--socket-path" not in options:
        words.append(f"--socket-path={tmp_path / 's'}")
    without = ["setpriv", "--bounding-set=-sys_boot,-sys_resource"]
    command = ["prlimit", "--core=0", *without, *COMMAND, f"--shared-dir={share}", "--sandbox=none", *words]
    files = sorted(tmp_path.iterdir())
    checked = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False, timeout=30)
    assert sorted(tmp_path.iterdir()) == files
    started = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert says.format(tmp=tmp_path) in started.stderr
    assert [
        line for line in checked.stdout.splitlines() if line.startswith("failed ") and says.format(tmp=tmp_path) in line
    ]
    assert checked.returncode == 1


def test_check_leaves_a_socket_that_is_there_alone(share: Path, tmp_path: Path) -> None:
    """A daemon of one connection that waits there must not take the attempt for its front-end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        listening.setblocking(False)
        done = run(f"--shared-dir={share}", f"--socket-path={tmp_path / 's'}", "--sandbox=none", "--check")
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert done.returncode == 0
    assert "note    socket" in done.stdout


@as_root
def test_check_of_handles_without_their_capability(share: Path) -> None:
    done = run(f"--shared-dir={share}", "--check", "--modcaps=-dac_read_search")
    assert done.returncode == 0
    assert "note    file handles" in done.stdout
    assert "not used: --modcaps=-dac_read_search takes away what opens them" in done.stdout


DEFAULT_FILE = """
mkdir -p extra/ferryfs && printf 'cache = "always"\\nxattr = true\\n' >extra/ferryfs/ferryfsd.toml
mount -t overlay -o lowerdir=extra:/etc none /etc
exec "$@"
"""


@as_root
def test_default_file_is_read_where_it_exists(tmp_path: Path) -> None:
    namespace = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", DEFAULT_FILE, "sh"]
    words = [*namespace, *COMMAND, "--show-config", "--cache=never"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env={"PATH": os.defpath})
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert rows["xattr"] == ["true", "/etc/ferryfs/ferryfsd.toml"], done.stderr
    assert rows["cache"] == ["never", "command", "line"]


def threads(pid: int) -> list[dict[str, str]]:
    """What the kernel says of each thread of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [
        dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        for task in tasks
    ]


@as_root
@pytest.mark.parametrize("mode", MODES)
def test_what_the_process_keeps(share: Path, tmp_path: Path, mode: str) -> None:
    """Capabilities, no_new_privs and filter of every thread, nothing of its parent's; and what it leaves alone."""
    reader, leaked = os.pipe()
    setting = ["sh", "-ec", 'echo 123 >/proc/self/oom_score_adj; exec "$@"', "sh"]
    words = [*COMMAND, f"--shared-dir={share}", f"--socket-path={tmp_path / 's'}", f"--sandbox={mode}"]
    with subprocess.Popen([*setting, *words], stderr=subprocess.PIPE, text=True, pass_fds=[leaked]) as daemon:
        os.close(leaked)
        wait_for_line(daemon.stderr)
        with open(reader, "rb") as left:
            assert left.read() == b"", "the end of it: nobody holds the other end"
        with VhostUserClient.connect(tmp_path / "s") as client:
            client.get_features()
            inner = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
            assert len(inner) == (mode == "namespace")
            serving = int(inner[0]) if inner else daemon.pid
            kept = f"{capabilities.mask({*capabilities.KEPT, 'dac_read_search'}):016x}"
            expected = {"CapInh": "0" * 16, "CapAmb": "0" * 16, "CapPrm": kept, "CapEff": kept, "CapBnd": kept}
            expected |= {"NoNewPrivs": "1", "Seccomp": "2", "Umask": "0000"}
            for thread in threads(serving):
                assert {key: thread[key] for key in expected} == expected, thread["Name"]
            for thread in threads(daemon.pid) if inner else ():
                assert {thread[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
                assert thread["NoNewPrivs"] == "1"
            for pid in {daemon.pid, serving}:
                assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "123\n"
        assert daemon.wait(30) == 0


def test_table_of_descriptors_is_large_before_threads_share_it(start: Start, tmp_path: Path) -> None:
    """Growing it later stops whoever opens a file for 10 ms and more."""
    daemon = start("--sandbox=none", "--rlimit-nofile=4096")
    with VhostUserClient.connect(tmp_path / "s") as client:
        client.get_features()
        assert {thread["FDSize"] for thread in threads(daemon.pid)} == {"4096"}


@as_root
@pytest.mark.parametrize("mode", ["none", "namespace"])
def test_interrupt_that_the_shell_ignores(mode: str, share: Path, tmp_path: Path) -> None:
    """A shell starts what it runs in the background so: Ctrl-C is for what runs in the foreground."""
    words = [*COMMAND, f"--shared-dir={share}", f"--socket-path={tmp_path / 's'}", f"--sandbox={mode}"]
    shell = ["sh", "-ec", "trap '' INT; exec \"$@\"", "sh"]
    with subprocess.Popen([*shell, *words], stderr=subprocess.PIPE, text=True) as daemon:
        wait_for_line(daemon.stderr)
        daemon.send_signal(signal.SIGINT)
        with VhostUserClient.connect(tmp_path / "s") as client:
            client.get_features()
        assert daemon.wait(30) == 0
        assert daemon.stderr is not None
        assert "The front-end is gone." in daemon.stderr.read()


@as_root
@pytest.mark.parametrize(("mode", "stays"), [("none", False), ("chroot", True), ("namespace", True)])
def test_socket_that_can_be_reached_is_removed(mode: str, stays: bool, start: Start, tmp_path: Path) -> None:
    """As virtiofsd does: who starts daemons one after the other may take its file for the next one's readiness."""
    daemon = start(f"--sandbox={mode}")
    connect(tmp_path / "s").close()
    assert daemon.wait(30) == 0
    assert (tmp_path / "s").exists() is stays


@as_root
@pytest.mark.parametrize(("option", "told"), [("prefer", True), ("never", False)])
def test_file_handles_that_can_not_be_had(option: str, told: bool, share: Path, tmp_path: Path) -> None:
    words = [*COMMAND, f"--shared-dir={share}", f"--socket-path={tmp_path / 's'}", "--sandbox=none"]
    bounded = ["setpriv", "--bounding-set=-dac_read_search", *words, f"--inode-file-handles={option}"]
    with subprocess.Popen(bounded, stderr=subprocess.PIPE, text=True) as daemon:
        said = wait_for_line(daemon.stderr)
        daemon.terminate()
    assert daemon.returncode == 0
    assert ("each file that the guest knows keeps a file of the daemon open" in said) is told


def test_environment_of_python_has_no_effect(share: Path, tmp_path: Path) -> None:
    (tmp_path / "logging.py").write_text("raise SystemExit('TAKEN')\n")
    words = [sys.executable, "-c", PROGRAM, "--version"]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PYTHONINSPECT": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ferryfsd ")
