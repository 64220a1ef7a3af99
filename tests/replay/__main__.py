"""The command line of a replay: plays once, and exits with 1 if anything was wrong."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from pathlib import Path

from tests import games
from tests.replay.play import Settings, play


def main() -> int:
    """Reads the command line and plays."""
    parser = argparse.ArgumentParser(prog="python -m tests.replay", description="A repository's history, done again.")
    parser.add_argument("repository", type=Path, help="a clone of it; nothing in it is changed")
    parser.add_argument("--last", type=int, default=60, help="how many commits")
    parser.add_argument(
        "--check", type=shlex.split, required=True, help="the command that says whether a state is good"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--kill-every", type=float, default=10.0, help="seconds; 0: nobody is killed")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds after which it gives up")
    parser.add_argument("--keep", action="store_true", help="leave everything where it is")
    chosen = parser.parse_args()
    with games.place("replay", keep=chosen.keep) as place:
        settings = Settings(
            chosen.repository.resolve(), chosen.last, chosen.check, chosen.seed, chosen.agents, chosen.kill_every,
            chosen.limit, place,
        )  # fmt: skip
        return games.conclude(asyncio.run(play(settings)))


if __name__ == "__main__":
    sys.exit(main())
