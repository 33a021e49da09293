"""What a Linux guest does with a share, seen from both sides, through each daemon."""

from __future__ import annotations

import hashlib
import os
import stat

from vm.conftest import Mounted

MIB = 1 << 20


def test_what_the_host_has_is_what_the_guest_sees(mounted: Mounted) -> None:
    """Names, sizes, modes, times, link targets and content of files that the host made."""
    folder = mounted.shared / "seen"
    folder.mkdir(mode=0o751)
    (folder / "file").write_bytes(b"content\n")
    os.chmod(folder / "file", 0o640)
    os.utime(folder / "file", (1_000_000_000, 1_234_567_890))
    (folder / "link").symlink_to("file")
    os.mkfifo(folder / "fifo", 0o600)
    inside = f"{mounted.inside}/seen"
    assert mounted.guest.check(f"ls {inside}").split() == ["fifo", "file", "link"]
    assert mounted.guest.check(f"stat -c '%a %s %Y %F' {inside}/file").strip() == "640 8 1234567890 regular file"
    assert mounted.guest.check(f"stat -c '%a %F' {inside} {inside}/fifo").splitlines() == ["751 directory", "600 fifo"]
    assert mounted.guest.check(f"readlink {inside}/link; cat {inside}/link") == "file\ncontent\n"


def test_what_the_guest_makes_is_what_the_host_has(mounted: Mounted) -> None:
    """Every kind of file and change of a guest, on the host's side."""
    inside = f"{mounted.inside}/made"
    mounted.guest.check(
        f"mkdir -m 750 {inside} && cd {inside} && echo one >file && chmod 604 file && ln file hard && ln -s ../x soft"
        " && mkfifo pipe && touch -d @1111111111 file && echo two >>hard && mkdir empty && chown 12:34 empty"
    )
    folder = mounted.shared / "made"
    assert (folder / "file").read_bytes() == b"one\ntwo\n"
    status = (folder / "file").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o604, 2)
    assert (folder / "hard").stat().st_ino == status.st_ino
    assert os.readlink(folder / "soft") == "../x"
    assert stat.S_ISFIFO((folder / "pipe").stat().st_mode)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    owner = (folder / "empty").stat()
    assert (owner.st_uid, owner.st_gid) == (12, 34)


def test_rename_and_remove(mounted: Mounted) -> None:
    """A tree that the guest moves and thins out."""
    inside = f"{mounted.inside}/moved"
    mounted.guest.check(f"mkdir -p {inside}/a/b && echo x >{inside}/a/b/file && echo y >{inside}/other")
    mounted.guest.check(f"cd {inside} && mv a/b c && mv other c/file && rmdir a && echo z >c/last && rm c/last")
    folder = mounted.shared / "moved"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == ["c", "c/file"]
    assert (folder / "c" / "file").read_text() == "y\n"


def test_large_files_arrive_whole_in_both_directions(mounted: Mounted) -> None:
    """16 MiB of noise each way, in requests of the largest size and, at the end, of an odd one."""
    noise = os.urandom(16 * MIB + 4097)
    (mounted.shared / "down").write_bytes(noise)
    digest = hashlib.sha256(noise).hexdigest()
    assert mounted.guest.check(f"sha256sum {mounted.inside}/down").split()[0] == digest
    mounted.guest.check(f"cat {mounted.inside}/down >{mounted.inside}/up && sync {mounted.inside}/up")
    assert hashlib.sha256((mounted.shared / "up").read_bytes()).hexdigest() == digest
    mounted.guest.check(f"rm {mounted.inside}/up {mounted.inside}/down")


def test_a_file_stays_usable_when_its_name_is_gone(mounted: Mounted) -> None:
    """Unlinked while open: the descriptor reads and writes on."""
    command = f"cd {mounted.inside} && exec 5<>gone && rm gone && echo still >&5 && cat /proc/self/fd/5; ls gone"
    result = mounted.guest.run(command)
    assert result.output.startswith("still\n")
    assert result.status != 0
    assert not (mounted.shared / "gone").exists()


def test_a_large_directory_is_listed_whole(mounted: Mounted) -> None:
    """3000 names need many READDIRPLUS requests; none is lost or comes twice."""
    folder = mounted.shared / "many"
    folder.mkdir()
    names = [f"{number:05d}-{'n' * 40}" for number in range(3000)]
    for name in names:
        (folder / name).touch()
    listed = mounted.guest.check(f"ls {mounted.inside}/many").split()
    assert listed == names
    mounted.guest.check(f"rm -r {mounted.inside}/many", timeout=120)
    assert not folder.exists()


def test_the_host_changes_a_file_that_the_guest_has_read(mounted: Mounted) -> None:
    """Opened again after the attributes' timeout of a second, a file shows what the host wrote meanwhile."""
    path = mounted.shared / "changing"
    path.write_text("before\n")
    assert mounted.guest.check(f"cat {mounted.inside}/changing") == "before\n"
    path.write_text("afterwards\n")
    assert mounted.guest.check(f"usleep 1200000; cat {mounted.inside}/changing") == "afterwards\n"


def test_errors_arrive_as_they_are(mounted: Mounted) -> None:
    """What the host's file system refuses is refused in the guest with the same words."""
    inside = mounted.inside
    expected = {
        f"cat {inside}/absent": "No such file or directory",
        f"rmdir {inside}/full": "Directory not empty",
        f"mkdir {inside}/full": "File exists",
        f"ls {inside}/full/inside/below": "Not a directory",
        f"touch {inside}/{'n' * 256}": "File name too long",
    }
    (mounted.shared / "full").mkdir()
    (mounted.shared / "full" / "inside").touch()
    for command, words in expected.items():
        result = mounted.guest.run(command)
        assert result.status != 0
        assert words in result.output


def test_free_space_is_the_hosts(mounted: Mounted) -> None:
    """df in the guest tells of the host's file system."""
    blocks = os.statvfs(mounted.shared)
    seen = mounted.guest.check(f"stat -f -c '%b %S' {mounted.inside}").split()
    assert int(seen[0]) * int(seen[1]) == blocks.f_blocks * blocks.f_frsize


def test_the_guests_kernel_has_no_complaint(mounted: Mounted) -> None:
    """Nothing of virtio-fs or FUSE in the kernel's log that is an error or a warning."""
    log = mounted.guest.check("dmesg -r")
    loud = [line for line in log.splitlines() if line[1:2] in "01234" and ("fuse" in line or "virtio" in line)]
    assert loud == []
    assert "BUG:" not in log
    assert "Call Trace" not in log
