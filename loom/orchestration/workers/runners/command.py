"""One's own command: it reads the task on its standard input, and says with its exit status what came of it.

It remembers nothing: what it is asked, or gets back, comes after the whole text again, in the same place.
"""

from __future__ import annotations

from loom.orchestration.workers import result
from loom.orchestration.workers.runners.row import End, EndKind, Errand, Launch, Reader, Usage
from loom.process import Ended


class Command:
    """The row. `must_report`: exit status 0 alone does not finish a task."""

    name = "command"
    remembers = speaks = by_tools = False
    by_shell = True
    unread: tuple[str, ...] = ()
    totals: frozenset[str] = frozenset()

    def __init__(self, *, must_report: bool = False) -> None:
        self.must_report = must_report

    def start(self, errand: Errand) -> Launch:
        return Launch(list(errand.words))

    def resume(self, errand: Errand, session: str) -> Launch:
        return self.start(errand)

    def reader(self) -> Reader:
        return _Status()


class _Status:
    session: str | None = ""
    usage: Usage | None = None
    busy = False
    stalled = ""

    def line(self, line: bytes) -> None:
        pass

    def end(self, ended: Ended) -> End:
        if ended.status:
            return End(EndKind.BROKEN, result.reason(ended))
        return End(EndKind.DONE, result.tail(ended.out, result.TEXT_BYTES))
