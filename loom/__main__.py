"""`python -m loom` is `loom`."""

from __future__ import annotations

from loom.cli import cli

cli(prog_name="loom")
