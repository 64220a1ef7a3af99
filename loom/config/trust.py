"""What a project's files may do only after the user has allowed it, on this machine.

A cloned repository must not run a program or send data elsewhere. What could (guarded keys, the Compose file, skills
and workflows of the project) counts only while its hash is the one that `trust` recorded in `~/.loom/trust.json`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from loom import files
from loom.config.files import nested, read_layer, set_value, user_config_path
from loom.config.inside import refuse_inside
from loom.config.keys import COMPOSE_FILE, KEYS
from loom.exceptions import ConfigError

GUARDED_BYTES = 256 * 1024  # of one file that needs trust
_TRUST_BYTES = 16 * 1024 * 1024


def guarded(project_dir: Path) -> dict[str, str]:
    """What in this project counts only when trusted: name to SHA-256.

    Names are dotted keys, rows of tables such as `checks.unit`, `docker-compose.loom.yml`, and paths below `.loom` such
    as `skills/plan.md`.
    """
    loom_dir = project_dir / ".loom"
    names = guarded_keys(read_layer(loom_dir / "config.yaml", [], within=project_dir))
    paths = {COMPOSE_FILE: project_dir / COMPOSE_FILE}
    for pattern in ("skills/*.md", "skills/*/SKILL.md", "workflows/*.yaml", "workflows/*.yml"):
        paths |= {str(path.relative_to(loom_dir)): path for path in sorted(loom_dir.glob(pattern))}
    for name, path in paths.items():
        with suppress(OSError):  # what cannot be read does not count
            names[name] = _digest(files.read(path, GUARDED_BYTES, project_dir))
    return names


def is_trusted(project_dir: Path, name: str | None = None, data: bytes | None = None) -> bool:
    """Whether `name` (as in `guarded`; None: everything there) is as it was when the user trusted it.

    Args:
        data: what was read of that file and is going to count. Without it the file is read here, which says nothing
            about what another read finds.
    """
    recorded = _recorded(project_dir)
    if name is not None and data is not None:
        return recorded.get(name) == _digest(data)
    now = guarded(project_dir)
    return all(recorded.get(one) == digest for one, digest in now.items() if name in (None, one)) and (
        name is None or name in now
    )


def untrusted(project_dir: Path, seen: Mapping[str, str]) -> list[str]:
    """What of this, as `guarded` gave it, is not as it was when the user trusted it."""
    recorded = _recorded(project_dir)
    return [name for name, digest in seen.items() if recorded.get(name) != digest]


def trust(
    project_dir: Path, names: Collection[str] | None = None, seen: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Record that the user trusts this project as it is now, on this machine. Gives back the names recorded.

    Args:
        names: only these, beside what was trusted before; None means everything and forgets what is gone.
        seen: what `guarded` found when the user was asked; what has changed since is not trusted by this.

    Raises:
        ConfigError: the record cannot be written, or everything is meant and this is inside a run.
    """
    now = guarded(project_dir) if seen is None else seen
    chosen = {name: digest for name, digest in now.items() if names is None or name in names}
    if names is None:
        refuse_inside("What this project is trusted with")
    with changing() as store:
        before = {} if names is None else _recorded(project_dir, store)
        store[str(project_dir.resolve())] = before | chosen
    return tuple(chosen)


def set_trusted(project_dir: Path, key: str, value: object) -> Any:
    """As `set_value`, in the project's file: who sets a guarded key here means it, so that it is trusted.

    One key of a row says nothing about what else a stranger has put there: the row is trusted only if it was before.
    """
    path = project_dir / ".loom" / "config.yaml"
    layer = read_layer(path, [], within=project_dir)
    name = KEYS.row_of(key) or key
    before = guarded_keys(layer).get(name)
    meant = name == key or before is None or before == _recorded(project_dir).get(name)
    written = set_value(path, key, value, within=project_dir)
    if meant:
        layer = {one: item for one, item in layer.items() if KEYS.row_of(one) != key}
        layer |= {one: KEYS[one].accept(item) for one, item in KEYS.flat(nested(key, written))}
        if name in (seen := guarded_keys(layer)):
            trust(project_dir, [name], seen)
    return written


def gone(project_dir: Path) -> list[str]:
    """The keys and rows that bind, were trusted, and are not in the project's file any more."""
    layer = read_layer(project_dir / ".loom" / "config.yaml", [], within=project_dir)
    return _gone(guarded_keys(layer), _recorded(project_dir))


def hold_back(root: Path, path: Path, layer: dict[str, Any], warnings: list[str]) -> tuple[str, ...]:
    """Takes out of a layer, read from `path` in the project `root`, what is guarded and not trusted, and says so.

    Gives back the keys and rows that bind and are not in force: those that were taken out here, and those that the user
    trusted and that somebody has taken out of the file since. Who demands something of the work has to tell them from
    what was never there: else whoever can write the file lifts the demand.
    """
    held, recorded = guarded_keys(layer), _recorded(root)
    refused = [name for name, digest in held.items() if recorded.get(name) != digest]
    if "servers.backend" in held and "servers.backend" not in refused and not _may_run_compose(root, recorded):
        refused.append("servers.backend")
    for name in refused:
        for key in [key for key in layer if key == name or KEYS.row_of(key) == name]:
            del layer[key]
    if refused:
        names = ", ".join(f"`{key}`" for key in refused)
        verb = "are" if refused[1:] else "is"
        warnings.append(f"{path}: {names} {verb} ignored until you allow it on this machine with `loom config trust`.")
    if lost := _gone(held, recorded):
        names = ", ".join(f"`{key}`" for key in lost)
        verb = "were allowed and are" if lost[1:] else "was allowed and is"
        warnings.append(f"{path}: {names} {verb} gone; put that back, or allow it with `loom config trust`.")
    return (*(name for name in refused if KEYS.binds(name)), *lost)


def _gone(there: Mapping[str, str], recorded: Mapping[str, str]) -> list[str]:
    return [name for name in recorded if KEYS.binds(name) and name not in there]


def _may_run_compose(root: Path, recorded: Mapping[str, str]) -> bool:
    try:
        return recorded.get(COMPOSE_FILE) == _digest(files.read(root / COMPOSE_FILE, GUARDED_BYTES, root))
    except FileNotFoundError:  # Loom writes its own
        return True
    except OSError:
        return False


def guarded_keys(layer: Mapping[str, Any]) -> dict[str, str]:
    """What of a layer counts only when trusted, and its SHA-256: keys, and rows that have such a key, as a whole."""
    names = (KEYS.row_of(key) or key for key in sorted(layer, key=KEYS.place) if KEYS.guards(key, layer[key]))
    found: dict[str, str] = {}
    for name in names:
        row = {key: layer[key] for key in sorted(layer) if KEYS.row_of(key) == name}
        found[name] = _digest(json.dumps(row or layer[name]).encode())
    return found


def stored() -> dict[str, Any]:
    """What this machine's user has allowed: of a directory, names to hashes; and what `places.py` keeps."""
    try:
        store = json.loads(files.read(_trust_path(), _TRUST_BYTES))
    except (OSError, ValueError, RecursionError):  # none yet, or damaged: nothing is trusted
        return {}
    return store if isinstance(store, dict) else {}


@contextmanager
def changing() -> Iterator[dict[str, Any]]:
    """The same to be changed, by one process at a time; written at the end. Raises ConfigError."""
    path = _trust_path()
    try:
        files.own_directory(path.parent)
        with files.log(path.with_suffix(".lock"), path.parent) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield (store := stored())
            files.write(path, json.dumps(store, indent=1), 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.", "Mend that, then run it again.") from None


def _recorded(project_dir: Path, store: Mapping[str, Any] | None = None) -> dict[str, str]:
    found = (stored() if store is None else store).get(str(project_dir.resolve()))
    return found if isinstance(found, dict) else {}


def _trust_path() -> Path:
    return user_config_path().with_name("trust.json")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
