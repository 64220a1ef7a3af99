"""The face for agents: an MCP server over the graph's front."""

import os

# FastMCP reads settings from a `.env` of the current directory, which belongs to whatever repository is open. This runs
# before any module of the package imports it.
os.environ["FASTMCP_ENV_FILE"] = os.devnull
