"""A guest that holds everything that has to move with it, and works on while it moves. For the demo and the tests."""

from __future__ import annotations

from pathlib import Path

from ferryfs.errors import PeerError
from ferryfs.guest.machine import Guest

# Each is far more than a pipe takes: whoever lists the directory into one stops in the middle of it.
NAMES = [f"{number:05d}-{'n' * 50}" for number in range(2500)]
LINES = [f"line {number:04d}" for number in range(100)]

# Words on descriptor 7 lead it: each but the last is one look at everything it holds, and gives a line on descriptor 8.
#
# Both stay open, for reading and writing. Were /tmp/done opened for each line: 1. the shell waits in open(2) for a
# reader; 2. find has written its last name and ends; 3. its SIGCHLD ends the open with EINTR, and no line ever comes.
HOLDER = """
cd /mnt && mkfifo /tmp/names /tmp/word /tmp/done || exit 1
exec 3<held 4<>gone 5>>appended 7<>/tmp/word 8<>/tmp/done
rm gone && echo before >&4 && echo before >&5 || exit 1
find many >/tmp/names 3<&- 4<&- 5>&- 7<&- 8<&- &
exec 6</tmp/names
echo >&8
while read -r word <&7; do
    test "$word" = end && break
    read -r line <&3 && echo "$line"
    echo "$word" >&4 && echo "$word" >&5 || exit 1
    dd bs=16384 count=2 <&6 >>/tmp/listed 2>/dev/null || exit 1
    echo >&8
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
        guest.check("until test -p /tmp/done; do usleep 10000; done; timeout 60 head -n 1 /tmp/done", timeout=90)

    def look(self, guest: Guest, word: str) -> None:
        """Let the holder use everything it holds."""
        self._words.append(word)
        guest.check(f"echo {word} >/tmp/word")
        self._done(guest)

    def end(self, guest: Guest) -> int:
        """End the programs, see that nothing was lost on either side, and return how often the writer went round.

        :raises PeerError: something was lost, came twice or has other content; the text names it.
        """
        guest.check("touch /tmp/stop; echo end >/tmp/word")
        words = "".join(f"{word}\n" for word in [*self._words, "end"])
        held = "".join(f"{line}\n" for line in LINES)
        status, output = guest.agent.result(self._holder)
        _expect(f"{status} {output}", f"0 {held}unlinked\n{words}", "what the guest read from its open files")
        listed = sorted(guest.check("cat /tmp/listed").split())
        _expect(listed, ["many", *(f"many/{name}" for name in NAMES)], "the listing of the half-read directory")
        status, output = guest.agent.result(self._writer)
        if status or not output.strip().isdecimal():
            raise PeerError(f"the writer in the guest failed: {output.strip()}")
        rounds = int(output)
        log = (self._shared / "log").read_text().split()
        _expect(log, [str(number) for number in range(rounds)], "the writer's log on the host")
        _expect((self._shared / "work").read_text(), f"{rounds - 1}\n", "the writer's file on the host")
        _expect((self._shared / "appended").read_text(), words, "the appended file on the host")
        _expect((self._shared / "gone").exists(), False, "whether the unlinked file has a name")
        return rounds


def _expect(seen: object, wanted: object, what: str) -> None:
    if seen != wanted:
        raise PeerError(f"{what}: {wanted!r} was to be seen, and {seen!r} was.")
