"""`python -m loom.mcp` serves the project of LOOM_PROJECT_DIR, or of the current directory, over stdio."""

from loom.mcp.server import run

run()
