"""The command line. `cli` is the group of all commands, which `commands.py` holds.

It is imported when it is asked for. `loom mcp` has to answer its client sooner than that takes: it goes to the hub
first (`loom/bridge.py`), and becomes a command like others only where none is to be had.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as the one of `typing`, whose import takes longer than all of this
if TYPE_CHECKING:
    from loom.cli.commands import cli as cli
else:

    def __getattr__(name: str) -> object:
        if name != "cli":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from loom import bridge

        bridge.fill_streams()
        if sys.argv[1:] == ["mcp"]:
            bridge.run()
        from loom.cli.commands import cli

        return cli
