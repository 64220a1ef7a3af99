"""The command line of the fleet: plays once, and exits with 1 if anything was wrong."""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests import games
from tests.fleet.play import Settings, play


def main() -> int:
    """Reads the command line and plays."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description="Scripted agents on one repository.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--terminals", type=int, default=2)
    parser.add_argument("--agents", type=int, default=4, help="in each terminal")
    parser.add_argument("--kill-every", type=float, default=10.0, help="seconds; 0: nobody is killed")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds after which it gives up")
    parser.add_argument("--keep", action="store_true", help="leave everything where it is")
    chosen = parser.parse_args()
    with games.place("fleet", keep=chosen.keep) as place:
        settings = Settings(
            chosen.seed, chosen.tasks, chosen.terminals, chosen.agents, chosen.kill_every, chosen.limit, place
        )
        return games.conclude(asyncio.run(play(settings)))


if __name__ == "__main__":
    sys.exit(main())
