"""The three layers, merged."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loom import caller, files, texts
from loom.config.files import find_project, read_layer, user_config_path, wrong
from loom.config.keys import API_KEY_VARIABLE, KEYS, LoomConfig
from loom.config.rules import UnfitError
from loom.config.trust import hold_back
from loom.exceptions import ConfigError

_SECRET_BYTES = 64 * 1024
_DAY = 86400  # seconds

_Layers = list[tuple[str, dict[str, Any]]]


def load_config(project_dir: Path | None = None) -> LoomConfig:
    """Merge the three layers, the variables being those of whoever calls.

    Args:
        project_dir: the project's directory or one below it; wins over `LOOM_PROJECT_DIR`, which wins over the
            current directory.

    Raises:
        ConfigError: a file cannot be read, or a value has the wrong type or is out of range.
    """
    _must_have_a_zone()
    env = caller.environ()
    warnings: list[str] = []
    root = _locate(project_dir, env, warnings)
    layers, withheld = _layers(root, env, warnings)
    values, sources = _merged(layers)
    if root and "project_name" not in values:
        values["project_name"] = _named_after(root)
        sources["project_name"] = "name of the directory"
    for key, change in (("project_id", str.lower), ("log_level", str.upper)):
        if key in values:
            values[key] = change(values[key])
    _drop_unused_addresses(values, sources, warnings)
    if "redis.url" in values and "database.url" not in values and sources["servers.backend"] == sources["redis.url"]:
        warnings.append(
            f"{sources['redis.url']} names a Redis of your own, so that Loom starts no servers and looks for "
            "PostgreSQL at localhost:5432; name it in `database.url`."
        )

    made, lacking = KEYS.build(values)
    warnings += [f"`{KEYS.row_of(key)}` counts for nothing, because it has no `{key}`." for key in lacking]
    warnings += [
        f"`notify.{name}` counts for nothing, because it needs one of slack, ntfy, webhook, command and obsidian."
        for name, row in made.get("notify", {}).items()
        if row.kind is None
    ]
    config = LoomConfig(
        project_dir=root,
        agent_id=env.get("LOOM_AGENT_ID") or None,
        skills_api_key=secret(env, API_KEY_VARIABLE)[0] or None,
        warnings=tuple(warnings),
        sources=sources,
        withheld=withheld,
        **made,
    )
    if config.database.pool_min > config.database.pool_max:
        raise ConfigError(
            f"{sources['database.pool_min']}: `database.pool_min` is {config.database.pool_min}, "
            f"above `database.pool_max`, which is {config.database.pool_max}.",
            "Lower the one or raise the other.",
        )
    return config


def _layers(root: Path | None, env: Mapping[str, str], warnings: list[str]) -> tuple[_Layers, tuple[str, ...]]:
    """The user's file, the project's and the variables, each with what it is called; and what of the project's binds
    and is not in force."""
    layers, withheld = [(str(user_config_path()), read_layer(user_config_path(), warnings))], tuple[str, ...]()
    if root:
        project_file = root / ".loom" / "config.yaml"
        layer = read_layer(project_file, warnings, within=root)
        withheld = hold_back(root, project_file, layer, warnings)
        layers.append((str(project_file), layer))
    return [*layers, *_variable_layers(env)], withheld


def _merged(layers: _Layers) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of the keys that any layer has, and for every key where its value is from."""
    values: dict[str, Any] = {}
    sources = dict.fromkeys(KEYS, "default")
    for source, layer in layers:
        values.update(layer)
        sources.update(dict.fromkeys(layer, source))
        # An address in a later layer than the last named backend means servers of the user's own.
        if "servers.backend" not in layer and ("database.url" in layer or "redis.url" in layer):
            values["servers.backend"], sources["servers.backend"] = "external", source
    return values, sources


def _must_have_a_zone() -> None:
    """Refuses a zone of this process in which no time can be told: C takes it, and Python's times do not."""
    if max(abs(time.timezone), abs(time.altzone)) >= _DAY:
        raise ConfigError(
            f"The variable TZ names a zone that is a day or more from UTC: {texts.quote(os.environ.get('TZ', ''))}.",
            "Correct it or unset it.",
        )


def _locate(project_dir: Path | None, env: Mapping[str, str], warnings: list[str]) -> Path | None:
    if project_dir is not None:
        return find_project(project_dir)
    named = env.get("LOOM_PROJECT_DIR", "")
    if not named or named.startswith("${"):  # a client that does not expand the default in .mcp.json
        return find_project(_here())
    root = find_project(_here(files.named(named)))
    if root is None:
        warnings.append(
            f"LOOM_PROJECT_DIR names {named}, and neither it nor a directory above it holds .loom/config.yaml; "
            "run `loom init` there or correct the variable."
        )
    return root


def _here(path: Path = Path()) -> Path:
    """A path, as seen from where whoever calls is."""
    try:
        return path if path.is_absolute() else caller.directory() / path
    except FileNotFoundError:
        raise ConfigError("The current directory is gone.", "Change to one that is there.") from None


def _drop_unused_addresses(values: dict[str, Any], sources: dict[str, str], warnings: list[str]) -> None:
    """Takes the servers' addresses out where Loom starts the servers, and says so."""
    backend = values.get("servers.backend", "embedded")
    for key in ("database.url", "database.password_command", "redis.url") if backend != "external" else ():
        if values.pop(key, None) is not None:
            warnings.append(f"{sources[key]}: `{key}` is ignored, because `servers.backend` is {backend}.")
            sources[key] = "default"


def _named_after(root: Path) -> str:
    """The name of a project whose file says none, which a directory's need not be fit for."""
    try:
        KEYS["project_name"].accept(root.name)
    except ValueError:
        return "project"
    return root.name


def secret(env: Mapping[str, str], name: str) -> tuple[str, str]:
    """What a variable says that holds a secret, or the file that the one with _FILE behind its name leads to, as those
    who run containers hand them out: LOOM_DATABASE_URL_FILE, LOOM_REDIS_URL_FILE, LOOM_SKILLS_BASE_URL_FILE,
    LOOM_SKILLS_API_KEY_FILE, LOOM_TOKEN_FILE. Gives back the value, empty where there is none, and which of the two it
    is from.

    Raises:
        ConfigError: both are set, or the file cannot be read or has no one line.
    """
    file = f"{name}_FILE"
    if not (path := env.get(file, "")):
        return env.get(name, ""), name
    if env.get(name):
        raise ConfigError(f"{name} and {file} are both set.", "Unset one of them.")
    try:
        text = files.read(_here(Path(path).expanduser()), _SECRET_BYTES).decode().strip()
    except RuntimeError:
        raise ConfigError(f"{file} leads to {path}, and there is no such user.", "Correct it or unset it.") from None
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is no text"
        raise ConfigError(f"{file} leads to {path}, which cannot be read: {why}.", "Correct it or unset it.") from None
    if not text or len(text.splitlines()) > 1:
        raise ConfigError(f"{file} leads to {path}, which does not hold one line.", "Correct it or unset it.")
    return text, file


def _variable_layers(env: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, rule in KEYS.items():
        if not rule.variable:
            continue
        text, source = secret(env, rule.variable) if rule.secret else (env.get(rule.variable, ""), rule.variable)
        if text:
            try:
                yield source, {key: rule.parse(text)}
            except UnfitError as error:
                raise wrong(f"The variable {source}", rule, text, "Correct it or unset it.", error.wanted) from None
