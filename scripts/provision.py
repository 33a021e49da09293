"""Bring this machine to where `make demo` and `make test` can run; everything that is there already is left alone.

usage: scripts/setup [demo|test|asan]

System packages are installed with apt as root or through sudo; without either, one list says what to install.
Everything else goes into `.venv` (the built package and its tools) and the cache folder (guest kernel, busybox, a
Python for the guest; $FERRYFS_CACHE, default ~/.cache/ferryfs).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from suites import NotHere, Source, Suite, cache_folder, derive, machine_sources, os_release, run

HERE = Path(__file__).resolve().parent.parent
KINDS = ("demo", "test", "asan")
SANITIZERS = ("-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dbuildtype=debugoptimized")
# The first QEMU whose vhost-user-fs device migrates (device state over SET_DEVICE_STATE_FD).
OLDEST_QEMU = (8, 2)
# What tests/managers tries; where there is none, they are skipped.
OLDEST_LIBVIRT = (11, 0)
OLDEST_PYTHON = (3, 11)
# Debian 12's pip knows neither -C nor one configuration setting given twice.
PIP = "pip>=23.1"
# Newest first; the cloud flavour has virtiofs, virtio-pci and virtio-console built in.
KERNELS = {
    "debian": ("linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"),
    "ubuntu": ("linux-image-virtual",),
}
OLDER_KERNEL, OLDER_SUITE = "linux-image-cloud-amd64", "bookworm"


@dataclass(frozen=True)
class Requirement:
    """Something of the system: what it is for, which package has it, and how to see that it is there."""

    purpose: str
    package: str
    present: Callable[[], bool]


def qemu_version() -> tuple[int, ...]:
    """The version of the QEMU on the path, (0,) when there is none."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        return (0,)
    shown = subprocess.run([program, "--version"], stdout=subprocess.PIPE, text=True, check=False).stdout
    found = re.search(r"version (\d+)\.(\d+)", shown)
    return (int(found[1]), int(found[2])) if found else (0,)


def _has_headers() -> bool:
    return Path(sysconfig.get_path("include"), "Python.h").exists()


def _has_venv() -> bool:
    command = [sys.executable, "-c", "import ensurepip, venv"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def _has_compiler() -> bool:
    command = ["cc", "-xc", "-", "-o", os.devnull]
    try:
        return subprocess.run(command, input=b"#include <stdio.h>\nint main(void) { return 0; }\n").returncode == 0
    except FileNotFoundError:
        return False


def _libvirt_driver() -> list[Path]:
    return list(Path("/usr/lib").glob("*/libvirt/connection-driver/libvirt_driver_qemu.so"))


REQUIREMENTS = (
    Requirement("C compiler", "gcc", _has_compiler),
    Requirement("C library headers", "libc6-dev", _has_compiler),
    Requirement("Python headers", "python3-dev", _has_headers),
    Requirement("Python virtual environments", "python3-venv", _has_venv),
    Requirement("QEMU 8.2 or newer", "qemu-system-x86", lambda: qemu_version() >= OLDEST_QEMU),
    Requirement("package unpacking", "dpkg", lambda: shutil.which("dpkg-deb") is not None),
)


TEST_REQUIREMENTS = (
    Requirement("file systems for tests", "e2fsprogs", lambda: shutil.which("mkfs.ext4") is not None),
    Requirement("file systems for tests", "xfsprogs", lambda: shutil.which("mkfs.xfs") is not None),
    Requirement("mounts for tests", "mount", lambda: shutil.which("mount") is not None),
    Requirement("system call traces for tests", "strace", lambda: shutil.which("strace") is not None),
    Requirement("checks of systemd units", "systemd", lambda: shutil.which("systemd-analyze") is not None),
    Requirement("subordinate ids for tests", "uidmap", lambda: shutil.which("newuidmap") is not None),
    Requirement("libvirt's shell", "libvirt-clients", lambda: shutil.which("virsh") is not None),
    Requirement("libvirt's QEMU driver", "libvirt-daemon-driver-qemu", lambda: bool(_libvirt_driver())),
    Requirement("libvirt's daemon", "libvirt-daemon", lambda: Path("/usr/sbin/libvirtd").exists()),
)


def say(text: str) -> None:
    """One line of progress."""
    print(f"setup: {text}", flush=True)


def backports() -> list[Source]:
    """The backports suite of this release, where the distribution has one."""
    if os_release().get("ID") != "debian":
        return []
    return [derive(f"{os_release().get('VERSION_CODENAME')}-backports")]


def root_prefix() -> list[str] | None:
    """What to put before a command to run it as root; None when we can't."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], stderr=subprocess.DEVNULL).returncode == 0:
        return ["sudo", "-n"]
    return None


def _candidate(options: Sequence[str], package: str) -> tuple[int, ...]:
    """Major and minor upstream version of the package that apt would install, (0,) when there is none."""
    command = ["apt-cache", *options, "show", "--no-all-versions", package]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
    found = re.search(r"^Version: (?:\d+:)?(\d+)\.(\d+)", shown, re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else (0,)


def install_system_packages(requirements: Sequence[Requirement]) -> None:
    """Install what is missing; QEMU from the backports when the release's own is too old."""
    missing = [requirement for requirement in requirements if not requirement.present()]
    if not missing:
        return
    prefix = root_prefix()
    if prefix is None:
        wanted = "\n".join(f"  {requirement.package:20} {requirement.purpose}" for requirement in missing)
        hint = ""
        if any(requirement.package == "qemu-system-x86" for requirement in missing) and backports():
            hint = f"\nWhere the release's QEMU is older: apt-get install -t {backports()[0].suite} qemu-system-x86"
        raise NotHere(f"these packages are missing, and installing them needs root or sudo:\n{wanted}{hint}")
    packages = [requirement.package for requirement in missing]
    say(f"installing {' '.join(packages)}")
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    # A private list of sources and a private copy of the package lists: the machine's own stay as they are.
    with tempfile.TemporaryDirectory(prefix="ferryfs-apt-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        sources = [*machine_sources(), *backports()]
        (folder / "ours.sources").write_text("\n".join(source.stanza() for source in sources))
        (folder / "lists").mkdir()
        options = [
            *("-o", f"Dir::Etc::sourcelist={folder}/ours.sources", "-o", "Dir::Etc::sourceparts=-"),
            *("-o", f"Dir::State::lists={folder}/lists", "-o", "Acquire::Languages=none", "-q"),
        ]
        apt = [*prefix, *environment, "apt-get", *options]
        run([*apt, "update"])
        target: list[str] = []
        # Of what is missing: the candidate of a package that is installed is at least what is installed.
        libvirt = next((package for package in packages if package.startswith("libvirt-")), None)
        if libvirt and _candidate(options, libvirt) < OLDEST_LIBVIRT and backports():
            # The release's own is from before virtiofs could be saved or moved.
            target = ["-t", backports()[0].suite]
        if "qemu-system-x86" in packages and _candidate(options, "qemu-system-x86") < OLDEST_QEMU:
            if not backports():
                raise NotHere("this release has no QEMU of 8.2 or newer; install one as qemu-system-x86_64.")
            say(f"the release's QEMU is older than 8.2: taking it from {backports()[0].suite}")
            target = ["-t", backports()[0].suite]
        run([*apt, "install", "-y", "--no-install-recommends", *target, *packages])
        if prefix:
            run([*prefix, "chown", "-R", str(os.getuid()), str(folder)])


def _dependencies(suite: Suite, package: str) -> list[str]:
    """The first alternative of each thing that a package depends on."""
    alternatives = [part.split("|")[0] for part in suite.depends(package).split(",") if part.strip()]
    return [re.split(r"[ (:]", part.strip())[0] for part in alternatives]


def guest_kernel(suite: Suite) -> None:
    """A guest kernel, unpacked into the cache folder; nothing of it is installed."""
    folder = cache_folder() / "guest" / "kernel"
    if list(folder.glob("boot/vmlinuz-*")):
        return
    distribution = os_release().get("ID", "")
    for name in KERNELS.get(distribution, KERNELS["debian"]):
        if suite.version(name) is None:
            continue
        image = next((one for one in _dependencies(suite, name) if one.startswith("linux-image-")), None)
        if image is None:
            continue
        modules = [one for one in _dependencies(suite, image) if one.startswith("linux-modules-")]
        say(f"guest kernel: {image} {suite.version(image)}")
        suite.unpack([image, *modules], folder)
        return
    raise NotHere(f"this release has none of the guest kernels {', '.join(KERNELS.get(distribution, ()))}.")


def older_guest_kernel(suite: Suite) -> None:
    """Linux 6.1, for the tests of a guest with an older kernel: Debian 12's, which newer ones can reach."""
    folder = cache_folder() / "guest" / "kernel-6.1"
    release = os_release()
    # No release of Ubuntu has it.
    if folder.exists() or release.get("ID") != "debian":
        return
    if release.get("VERSION_CODENAME") != OLDER_SUITE:
        suite = Suite(OLDER_SUITE, [derive(OLDER_SUITE)])
    image = next(one for one in _dependencies(suite, OLDER_KERNEL) if one.startswith("linux-image-"))
    say(f"older guest kernel: {image}")
    suite.unpack([image], folder)


def guest_busybox(suite: Suite) -> None:
    """The guest's user land."""
    folder = cache_folder() / "guest" / "busybox"
    if not folder.exists():
        say("guest tools: busybox-static")
        suite.unpack(["busybox-static"], folder)


def guest_python(suite: Suite) -> None:
    """A Python and its libraries for the test suites that run inside a guest."""
    folder = cache_folder() / "guest" / "python"
    if folder.exists():
        return
    packages: list[str] = []
    waiting = ["python3-minimal", "libpython3-stdlib"]
    while waiting:
        name = waiting.pop()
        # Libraries only: what else these depend on (debconf, media types) is for a machine that is administered.
        if name in packages or not re.match(r"lib|python3|zlib1g", name):
            continue
        packages.append(name)
        waiting.extend(_dependencies(suite, name))
    say(f"guest Python: {len(packages)} packages")
    suite.unpack(packages, folder)


def groups(*names: str) -> list[str]:
    """The requirements of dependency groups in pyproject.toml, with the groups that they include."""
    table = tomllib.loads((HERE / "pyproject.toml").read_text())["dependency-groups"]
    found: list[str] = []
    for name in names:
        for item in table[name]:
            found.extend(groups(item["include-group"]) if isinstance(item, dict) else [item])
    return found


def _fingerprint(paths: Sequence[Path], extra: str) -> str:
    digest = hashlib.sha256(extra.encode())
    for path in sorted(paths):
        digest.update(f"{path.relative_to(HERE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _sources() -> list[Path]:
    kept = [path for path in (HERE / "src").rglob("*") if path.is_file() and path.suffix not in {".pyc", ".so"}]
    return [*kept, HERE / "meson.build", HERE / "pyproject.toml"]


def _is_editable(environment: Path) -> bool:
    for found in environment.glob("lib/python3*/site-packages/ferryfs-*.dist-info/direct_url.json"):
        return bool(json.loads(found.read_text()).get("dir_info", {}).get("editable", False))
    return False


def environment_folder(kind: str) -> Path:
    """Where the environment of this kind of run is; a build with sanitizers never gets in the way of the usual one."""
    if kind == "asan":
        return HERE / ".venv-asan"
    return Path(os.environ.get("FERRYFS_VENV") or HERE / ".venv")


def environment(kind: str) -> None:
    """The tools of this kind of run and the package as it is in the checkout, built once a change."""
    folder = environment_folder(kind)
    python = folder / "bin" / "python"
    if not python.exists():
        say(f"making {folder}")
        run([sys.executable, "-m", "venv", str(folder)])
    wanted = [PIP, *groups("build" if kind == "demo" else "dev")]
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    tools_stamp = folder / "ferryfs-tools"
    installed = set(tools_stamp.read_text().splitlines()) if tools_stamp.exists() else set()
    if not installed.issuperset(wanted):
        say("installing Python tools: " + " ".join(re.split(r"[<>=\[]", one)[0] for one in wanted))
        run([*pip, *wanted])
        tools_stamp.write_text("\n".join(sorted(installed | set(wanted))))
    stamp = folder / "ferryfs-built"
    state = _fingerprint(_sources(), sys.version)
    if stamp.exists() and stamp.read_text() == state and not _is_editable(folder):
        return
    say("building ferryfs" + (" with sanitizers" if kind == "asan" else ""))
    build(folder, SANITIZERS if kind == "asan" else ())
    stamp.write_text(state)


def build(environment: Path, options: Sequence[str]) -> None:
    """Build the package with these options of meson, install it, and refuse what Cython only hints at."""
    folder = HERE / "build" / f"{environment.name.lstrip('.')}-{platform.machine()}"
    log = HERE / "build" / "install.log"
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-v"]
    command += ["--no-build-isolation", "--no-deps", "--force-reinstall", f"-Cbuild-dir={folder}"]
    command += [*(f"-Csetup-args={option}" for option in options), str(HERE)]
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    with log.open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "PATH": path})
    text = log.read_text()
    if done.returncode:
        sys.stderr.write("\n".join(text.splitlines()[-60:]) + "\n")
        raise NotHere(f"building ferryfs failed; the whole output is in {log}.")
    # A `cdef void f() nogil` that may raise costs 60 ns a call. Cython only hints at it, so it is refused here.
    if "Exception check" in text:
        shutil.rmtree(folder)
        hints = "\n".join(line for line in text.splitlines() if "Exception check" in line or "performance hint" in line)
        raise NotHere(f"Cython found calls that take the GIL to look for an exception:\n{hints}")


def main(arguments: Sequence[str]) -> int:
    kind = arguments[0] if arguments else "demo"
    if kind not in KINDS:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        if sys.version_info < OLDEST_PYTHON:
            raise NotHere(f"Python {platform.python_version()} is older than 3.11; set PYTHON to a newer one.")
        if platform.machine() != "x86_64":
            raise NotHere(f"the guest is for x86_64 machines so far, and this one is {platform.machine()}.")
        install_system_packages([*REQUIREMENTS, *(() if kind == "demo" else TEST_REQUIREMENTS)])
        here = Suite("machine", machine_sources())
        guest_kernel(here)
        guest_busybox(here)
        if kind == "test":
            guest_python(here)
            older_guest_kernel(here)
        environment(kind)
    except NotHere as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
