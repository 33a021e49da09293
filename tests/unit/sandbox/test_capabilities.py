"""Which capabilities are kept, and that nothing gives them back."""

import pytest

from ferryfs.errors import OptionError
from ferryfs.passthrough.config import HandleMode
from ferryfs.sandbox import capabilities

from .conftest import Inside

VIRTIOFSD = {"chown", "dac_override", "fowner", "fsetid", "setgid", "setuid", "mknod", "setfcap"}


def test_list_is_virtiofsds() -> None:
    assert capabilities.wanted(HandleMode.NEVER, ()) == VIRTIOFSD
    assert capabilities.wanted(HandleMode.PREFER, ()) == VIRTIOFSD | {"dac_read_search"}


def test_changes_apply_in_order() -> None:
    assert capabilities.wanted(HandleMode.NEVER, ("+sys_admin", "-chown", "-mknod", "+mknod")) == VIRTIOFSD - {
        "chown"
    } | {"sys_admin"}
    assert "dac_read_search" not in capabilities.wanted(HandleMode.PREFER, ("-dac_read_search",))
    with pytest.raises(OptionError, match="mandatory"):
        capabilities.wanted(HandleMode.MANDATORY, ("-dac_read_search",))


def test_numbers_are_the_kernels() -> None:
    numbers = capabilities.CAPABILITIES
    picked = {"chown": 0, "dac_read_search": 2, "setpcap": 8, "sys_admin": 21, "setfcap": 31, "checkpoint_restore": 40}
    assert {name: numbers[name] for name in picked} == picked
    assert capabilities.names_of(capabilities.mask(picked)) == list(picked)


@pytest.mark.parametrize("mode", ["namespace", "chroot", "none"])
def test_sets_of_the_serving_process(inside: Inside, mode: str) -> None:
    kept = capabilities.mask(VIRTIOFSD | {"dac_read_search"})
    code = (
        "ambient = sum(_linux.prctl(47, 1, n) << n for n in range(41))\n"
        "bounding = sum(_linux.prctl(23, n) << n for n in range(41))\n"
        "print(*_linux.capget(), ambient, bounding, _linux.prctl(39))"
    )
    said = inside(code, mode=mode, seccomp="none").said
    assert said == f"{kept} {kept} 0 0 {kept} 1"


def test_another_user_of_a_thread_has_none(inside: Inside) -> None:
    code = (
        "os.setresuid(-1, 1000, -1); print(_linux.capget()[0]); os.setresuid(-1, 0, -1); print(_linux.capget()[0] != 0)"
    )
    assert inside(code).said == "0\nTrue"
