"""The command line of the fleet: plays once, and exits with 1 if anything was wrong."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
from pathlib import Path

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
    place = Path(f"/tmp/loom-fleet-{os.getpid()}")
    place.mkdir(mode=0o755)
    settings = Settings(
        chosen.seed, chosen.tasks, chosen.terminals, chosen.agents, chosen.kill_every, chosen.limit, place
    )
    try:
        problems = asyncio.run(play(settings))
    finally:
        if chosen.keep:
            print(f"everything is in {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)
    for problem in problems:
        print(f"WRONG: {problem}")
    print("wrong" if problems else "all is well")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
