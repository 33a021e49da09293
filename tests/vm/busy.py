"""A guest that holds everything that has to move with it, and works on while it moves."""

from __future__ import annotations

from pathlib import Path

from ferryfs.guest.machine import Guest

# Each is far more than a pipe takes: whoever lists the directory into one stops in the middle of it.
NAMES = [f"{number:05d}-{'n' * 50}" for number in range(2500)]
LINES = [f"line {number:04d}" for number in range(100)]

# Words on descriptor 7 lead it: each but the last is one look at everything it holds.
HOLDER = """
cd /mnt && mkfifo /tmp/names /tmp/word /tmp/done || exit 1
exec 3<held 4<>gone 5>>appended 7<>/tmp/word
rm gone && echo before >&4 && echo before >&5 || exit 1
find many >/tmp/names 3<&- 4<&- 5>&- 7<&- &
exec 6</tmp/names
echo >/tmp/done
while read -r word <&7; do
    test "$word" = end && break
    read -r line <&3 && echo "$line"
    echo "$word" >&4 && echo "$word" >&5 || exit 1
    dd bs=16384 count=2 <&6 >>/tmp/listed 2>/dev/null || exit 1
    echo >/tmp/done
done
cat <&3 && cat <&6 >>/tmp/listed && echo end >&4 && echo end >&5 && echo unlinked && cat /proc/self/fd/4
"""

# Appends, replaces and (where $new is not empty) renames, and looks at what it did.
WRITER = """
number=0
while test ! -e /tmp/stop; do
    echo $number >>/mnt/log && echo $number >"/mnt/work$new" || exit 1
    test -z "$new" || mv "/mnt/work$new" /mnt/work || exit 1
    read -r back </mnt/work && test "$back" = $number || { echo "$back instead of $number"; exit 2; }
    number=$((number + 1))
done
echo $number
"""


def fill(shared: Path) -> None:
    """What a ``BusyGuest`` needs in its share."""
    (shared / "many").mkdir()
    for name in NAMES:
        (shared / "many" / name).touch()
    (shared / "held").write_text("".join(f"{line}\n" for line in LINES))


class BusyGuest:
    """Programs in a guest that has ``shared`` mounted at /mnt: a holder and a writer."""

    def __init__(self, guest: Guest, shared: Path, *, renames: bool = True) -> None:
        """Without ``renames`` the writer writes to the same two files only, and no inode comes or goes."""
        self._shared = shared
        self._holder = guest.agent.start(HOLDER)
        self._words = ["before"]
        self._done(guest)
        self._writer = guest.agent.start(f"new={'.new' if renames else ''}\n{WRITER}")

    def _done(self, guest: Guest) -> None:
        # A holder that failed never says so: its own result then comes first, and is the better text.
        guest.check("until test -p /tmp/done; do usleep 10000; done; timeout 60 cat /tmp/done", timeout=90)

    def look(self, guest: Guest, word: str) -> None:
        """Let the holder use everything it holds."""
        self._words.append(word)
        guest.check(f"echo {word} >/tmp/word")
        self._done(guest)

    def end(self, guest: Guest) -> int:
        """End the programs, see that nothing was lost on either side, and return how often the writer went round."""
        guest.check("touch /tmp/stop; echo end >/tmp/word")
        words = "".join(f"{word}\n" for word in [*self._words, "end"])
        held = "".join(f"{line}\n" for line in LINES)
        assert guest.agent.result(self._holder) == (0, f"{held}unlinked\n{words}")
        assert sorted(guest.check("cat /tmp/listed").split()) == ["many", *(f"many/{name}" for name in NAMES)]
        status, output = guest.agent.result(self._writer)
        assert (status, output.strip().isdecimal()) == (0, True), output
        rounds = int(output)
        assert (self._shared / "log").read_text().split() == [str(number) for number in range(rounds)]
        assert (self._shared / "work").read_text() == f"{rounds - 1}\n"
        assert (self._shared / "appended").read_text() == words
        assert not (self._shared / "gone").exists()
        return rounds
