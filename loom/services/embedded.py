"""The default backend: PostgreSQL and Redis started for the user, one instance shared by all of a user's projects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from loom.config import LoomConfig
from loom.exceptions import ServersError, ServersStoppedError
from loom.services import Endpoints, ServerHealth, silent, started
from loom.services.instance import State, instance_dir, new_state, read_state, write_state
from loom.wording import Shell, Words


def endpoints(config: LoomConfig) -> Endpoints:
    state = read_state(instance_dir(config))
    if state is None:
        raise ServersError("Loom's servers have not been started yet.", Words("Run {}.", Shell("loom up")))
    return state.endpoints()


def up(config: LoomConfig, progress: Callable[[str], None]) -> Endpoints:
    return _start(instance_dir(config), progress, even_if_stopped=True)


def ensure(config: LoomConfig) -> Endpoints:
    return _start(instance_dir(config), silent, even_if_stopped=False)


def down(config: LoomConfig) -> None:
    from loom.services.launcher import locked
    from loom.services.pair import BUSY_SECONDS, stop

    root = instance_dir(config)
    if not root.exists():
        return
    with locked(root / "up.lock", BUSY_SECONDS):
        if state := read_state(root):
            write_state(root, replace(state, stopped=True))
            stop(root, state)


def check(config: LoomConfig) -> list[ServerHealth]:
    root = instance_dir(config)
    state = read_state(root)
    if state is None:
        return started.never(str(root))
    return started.health(state.endpoints(), (state.postgres_version, state.redis_version), stopped=state.stopped)


def _start(root: Path, progress: Callable[[str], None], *, even_if_stopped: bool) -> Endpoints:
    state = read_state(root)
    if state and _runs(root, state, even_if_stopped):
        return state.endpoints()
    from loom.services.launcher import locked
    from loom.services.pair import BUSY_SECONDS, start
    from loom.services.places import make_dir

    try:
        make_dir(root)
        with locked(root / "up.lock", BUSY_SECONDS):
            state = read_state(root)  # another command may have started or stopped them meanwhile
            if state is None or not _runs(root, state, even_if_stopped):
                state = start(root, replace(state or new_state(root), stopped=False), progress)
            return state.endpoints()
    except OSError as error:
        raise ServersError(f"The servers cannot be started: {error}.", Words("Run {}.", Shell("loom doctor"))) from None


def _runs(root: Path, state: State, even_if_stopped: bool) -> bool:
    if state.stopped and not even_if_stopped:
        raise ServersStoppedError(
            Words("The servers of instance `{}` were stopped with {}.", root.name, Shell("loom down")),
            Words("Run {} to start them.", Shell("loom up")),
        )
    return not state.stopped and started.both_answer(state.endpoints())
