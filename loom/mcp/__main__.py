"""`python -m loom.mcp` serves the project of LOOM_PROJECT_DIR, or of the current directory, over stdio: through the
hub, and in this process with `--direct` and where there is none."""

import sys

from loom import bridge

bridge.fill_streams()
if sys.argv[1:] != ["--direct"]:
    bridge.run()  # before what costs to import

from loom.mcp.server import run  # noqa: E402

run()
