"""What a project's files may do only after the user has allowed it, on this machine.

A cloned repository must not run a program or send data elsewhere. What could (guarded keys, the Compose file, skills
and workflows of the project) counts only while its hash is the one that `trust` recorded in `~/.loom/trust.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from loom.config.files import read_layer, user_config_path, write_atomically
from loom.config.keys import COMPOSE_FILE, KEYS, Keys


def guarded(project_dir: Path) -> dict[str, str]:
    """What in this project counts only when trusted: name to SHA-256.

    Names are dotted keys, rows of tables such as `checks.unit`, `docker-compose.loom.yml`, and paths below `.loom` such
    as `skills/plan.md`.
    """
    names = guarded_keys(read_layer(project_dir / ".loom" / "config.yaml", []))
    loom_dir = project_dir / ".loom"
    files = {COMPOSE_FILE: project_dir / COMPOSE_FILE}
    for pattern in ("skills/*.md", "skills/*/SKILL.md", "workflows/*.yaml", "workflows/*.yml"):
        files |= {str(path.relative_to(loom_dir)): path for path in sorted(loom_dir.glob(pattern))}
    for name, path in files.items():
        with suppress(OSError):
            names[name] = _digest(path.read_bytes())
    return names


def is_trusted(project_dir: Path, name: str | None = None) -> bool:
    """Whether `name` (as in `guarded`; None: everything there) is as it was when the user trusted it.

    True for a name that the project does not have: there is nothing to guard.
    """
    recorded = _recorded(project_dir)
    untrusted = {one for one, digest in guarded(project_dir).items() if recorded.get(one) != digest}
    return not untrusted if name is None else name not in untrusted


def trust(project_dir: Path, names: Collection[str] | None = None) -> tuple[str, ...]:
    """Record that the user trusts this project as it is now, on this machine. Gives back the names recorded.

    Args:
        names: only these, beside what was trusted before; None means everything and forgets what is gone.
    """
    now = guarded(project_dir)
    store = _trusted()
    directory = str(project_dir.resolve())
    chosen = {name: digest for name, digest in now.items() if names is None or name in names}
    store[directory] = chosen if names is None else store.get(directory, {}) | chosen
    write_atomically(_trust_path(), json.dumps(store, indent=1), 0o600)
    return tuple(chosen)


def hold_back(root: Path, path: Path, layer: dict[str, Any], warnings: list[str], keys: Keys = KEYS) -> None:
    """Takes out of a layer, read from `path` in the project `root`, what is guarded and not trusted, and says so."""
    held = guarded_keys(layer, keys)
    if not held:
        return
    recorded = _recorded(root)
    refused = [name for name, digest in held.items() if recorded.get(name) != digest]
    if "servers.backend" in held and "servers.backend" not in refused and not is_trusted(root, COMPOSE_FILE):
        refused.append("servers.backend")
    for name in refused:
        for key in [key for key in layer if key == name or keys.row_of(key) == name]:
            del layer[key]
    if refused:
        names = ", ".join(f"`{key}`" for key in refused)
        verb = "are" if refused[1:] else "is"
        warnings.append(f"{path}: {names} {verb} ignored until you allow it on this machine with `loom config trust`.")


def guarded_keys(layer: Mapping[str, Any], keys: Keys = KEYS) -> dict[str, str]:
    """What of a layer counts only when trusted, and its SHA-256: keys, and rows that have such a key, as a whole."""
    names = (keys.row_of(key) or key for key in sorted(layer, key=keys.place) if keys[key].guards(layer[key]))
    found: dict[str, str] = {}
    for name in names:
        row = {key: layer[key] for key in sorted(layer) if keys.row_of(key) == name}
        found[name] = _digest(json.dumps(row or layer[name]).encode())
    return found


def _recorded(project_dir: Path) -> dict[str, str]:
    return _trusted().get(str(project_dir.resolve()), {})


def _trust_path() -> Path:
    return user_config_path().with_name("trust.json")


def _trusted() -> dict[str, dict[str, str]]:
    try:
        store = json.loads(_trust_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or damaged: nothing is trusted
        return {}
    entries = store.items() if isinstance(store, dict) else ()
    return {directory: names for directory, names in entries if isinstance(names, dict)}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
