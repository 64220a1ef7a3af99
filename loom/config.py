"""Configuration: three layers merged into one frozen object, and the record of what a user trusts.

Later wins: `~/.loom/config.yaml`, the project's `.loom/config.yaml`, `LOOM_*` variables. The keys, their defaults and
their limits are the fields of the dataclasses below. An unknown key is a warning, a wrong value a `ConfigError`.

A cloned repository must not run a program or send data elsewhere. What could (`GUARDED` keys, the Compose file, skills
and workflows of the project) counts only while its hash is the one that `trust` recorded in `~/.loom/trust.json`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from loom import documents, texts
from loom.exceptions import ConfigError

COMPOSE_FILE = "docker-compose.loom.yml"
GUARDED = ("database.url", "redis.url", "servers.backend", "skills.provider", "skills.base_url", "skills.command")
API_KEY_VARIABLE = "LOOM_SKILLS_API_KEY"
_DEPTH = 8  # of mappings in a file; its keys have two


@dataclass(frozen=True)
class _Rule:
    """What one key accepts. `wanted` completes the sentence "`key` must be ..."."""

    wanted: str
    type: type[str] | type[int] | type[float]
    low: float = 0
    high: float = 0
    pattern: str = ""
    variable: str = ""
    secret: bool = False

    def accept(self, value: object) -> Any:
        """The value as its dataclass wants it; ValueError when it does not fit."""
        if type(value) is not self.type and not (self.type is float and type(value) is int):
            raise ValueError
        if isinstance(value, str):
            if not re.fullmatch(self.pattern, value):
                raise ValueError
        elif not self.low <= value <= self.high:
            raise ValueError
        return self.type(value)

    def parse(self, text: str) -> Any:
        """As `accept`, for a value that came as text: a variable, or a word on the command line."""
        return self.accept(text if self.type is str else self.type(text))


def _whole(default: int, low: int, high: int, variable: str = "") -> Any:
    rule = _Rule(f"a whole number from {low} to {high}", int, low, high, variable=variable)
    return field(default=default, metadata={"rule": rule})


def _number(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"rule": _Rule(f"a number from {low:g} to {high:g}", float, low, high)})


def _text(default: str | None, wanted: str = "text", pattern: str = r"[^\x00-\x1f\x7f]+", *, variable: str = "") -> Any:
    return field(default=default, metadata={"rule": _Rule(wanted, str, pattern=pattern, variable=variable)})


def _url(schemes: str, variable: str) -> Any:
    wanted = "a URL that begins with " + " or ".join(f"{scheme}://" for scheme in schemes.split("|"))
    rule = _Rule(wanted, str, pattern=rf"(?:{schemes})://[^\s]+", variable=variable, secret=True)
    return field(default=None, repr=False, metadata={"rule": rule})


@dataclass(frozen=True)
class DatabaseConfig:
    url: str | None = _url("postgresql|postgres", "LOOM_DATABASE_URL")  # None: where the backend puts it
    pool_min: int = _whole(2, 0, 100)
    pool_max: int = _whole(10, 1, 100)


@dataclass(frozen=True)
class RedisConfig:
    url: str | None = _url("redis|rediss|unix", "LOOM_REDIS_URL")  # None: where the backend puts it
    stream_maxlen: int = _whole(10_000, 100, 10_000_000)


@dataclass(frozen=True)
class McpConfig:
    host: str = _text("127.0.0.1", "a host name or address", r"[A-Za-z0-9._:\[\]-]+", variable="LOOM_MCP_HOST")
    port: int = _whole(8765, 1, 65535, "LOOM_MCP_PORT")


@dataclass(frozen=True)
class ServersConfig:
    backend: str = _text("embedded", "one of embedded, docker, external", "embedded|docker|external")
    instance: str = _text("default", "up to 32 of a-z, 0-9, - and _", "[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class OrchestrationConfig:
    claim_ttl_seconds: int = _whole(600, 1, 7 * 86400, "LOOM_CLAIM_TTL")
    deadline_seconds: int = _whole(14400, 1, 30 * 86400)
    idle_limit_seconds: int = _whole(1800, 1, 30 * 86400)
    sweep_seconds: float = _number(5.0, 0.05, 3600)
    max_retries: int = _whole(3, 0, 100, "LOOM_MAX_RETRIES")
    backoff_base_seconds: int = _whole(60, 0, 86400)
    backoff_cap_seconds: int = _whole(3600, 0, 7 * 86400)
    diagnoses_per_hour: int = _whole(6, 1, 1000)
    fix_depth: int = _whole(2, 1, 10)


@dataclass(frozen=True)
class SkillsConfig:
    provider: str | None = _text(None, "the name of a provider", "[A-Za-z0-9_.-]+", variable="LOOM_SKILLS_PROVIDER")
    model: str | None = _text(None, "the name of a model", variable="LOOM_SKILLS_MODEL")
    base_url: str | None = _url("https|http", "LOOM_SKILLS_BASE_URL")
    command: str | None = _text(None, "a command line")


@dataclass(frozen=True)
class LoomConfig:
    """The merged configuration. Make one with `load_config`; the plain constructor gives the defaults."""

    project_dir: Path | None = None  # the directory that holds .loom/
    project_name: str = _text("", "a name of at most 200 characters", r"[^\x00-\x1f\x7f]{1,200}")
    project_id: str | None = _text(
        None,
        "a UUID",
        "(?i:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})",
        variable="LOOM_PROJECT_ID",
    )
    log_level: str = _text(
        "WARNING",
        "one of DEBUG, INFO, WARNING, ERROR",
        "(?i:DEBUG|INFO|WARNING|ERROR)",
        variable="LOOM_LOG_LEVEL",
    )
    database: DatabaseConfig = field(default_factory=DatabaseConfig)
    redis: RedisConfig = field(default_factory=RedisConfig)
    mcp: McpConfig = field(default_factory=McpConfig)
    servers: ServersConfig = field(default_factory=ServersConfig)
    orchestration: OrchestrationConfig = field(default_factory=OrchestrationConfig)
    skills: SkillsConfig = field(default_factory=SkillsConfig)
    agent_id: str | None = None  # LOOM_AGENT_ID; a variable only
    skills_api_key: str | None = field(default=None, repr=False)  # LOOM_SKILLS_API_KEY; a variable only
    warnings: tuple[str, ...] = ()  # sentences to show a person
    sources: Mapping[str, str] = field(default_factory=dict)  # dotted key: "default", a file's path or a variable

    @property
    def loom_dir(self) -> Path | None:
        """The project's `.loom` directory, None without a project."""
        return self.project_dir / ".loom" if self.project_dir else None

    def shown(self) -> dict[str, Any]:
        """Dotted key to value for every key, fit to be printed: passwords in URLs are masked."""
        values = {key: _reach(self, key) for key in KEYS}
        return {key: texts.mask(value) if KEYS[key].secret and value else value for key, value in values.items()}


_SECTIONS: Mapping[str, type[Any]] = {
    "database": DatabaseConfig,
    "redis": RedisConfig,
    "mcp": McpConfig,
    "servers": ServersConfig,
    "orchestration": OrchestrationConfig,
    "skills": SkillsConfig,
}


def _rules() -> Iterator[tuple[str, _Rule]]:
    for cls, prefix in [(LoomConfig, ""), *((cls, f"{name}.") for name, cls in _SECTIONS.items())]:
        for item in fields(cls):
            if "rule" in item.metadata:
                yield prefix + item.name, item.metadata["rule"]


KEYS: Mapping[str, _Rule] = dict(_rules())  # every valid dotted key


# --- loading ---------------------------------------------------------------------------------------------------------


def load_config(project_dir: Path | None = None, *, environ: Mapping[str, str] | None = None) -> LoomConfig:
    """Merge the three layers.

    Args:
        project_dir: the project's directory or one below it; wins over `LOOM_PROJECT_DIR`, which wins over the
            current directory.
        environ: the variables, by default those of the process.

    Raises:
        ConfigError: a file cannot be read, or a value has the wrong type or is out of range.
    """
    env = os.environ if environ is None else environ
    warnings: list[str] = []
    root = _locate(project_dir, env, warnings)

    layers: list[tuple[str, dict[str, Any]]] = []
    user_file = user_config_path()
    layers.append((str(user_file), _read_layer(user_file, warnings)))
    if root:
        project_file = root / ".loom" / "config.yaml"
        layer = _read_layer(project_file, warnings)
        _drop_untrusted(root, project_file, layer, warnings)
        layers.append((str(project_file), layer))
    layers.extend(_variable_layers(env))

    values: dict[str, Any] = {}
    sources = dict.fromkeys(KEYS, "default")
    for source, layer in layers:
        values.update(layer)
        sources.update(dict.fromkeys(layer, source))
        # An address in a later layer than the last named backend means servers of the user's own.
        if "servers.backend" not in layer and ("database.url" in layer or "redis.url" in layer):
            values["servers.backend"], sources["servers.backend"] = "external", source

    if root and "project_name" not in values:
        values["project_name"] = root.name
        sources["project_name"] = "name of the directory"
    for key, change in (("project_id", str.lower), ("log_level", str.upper)):
        if key in values:
            values[key] = change(values[key])
    if values.get("servers.backend") != "external":
        for key in ("database.url", "redis.url"):
            if values.pop(key, None) is not None:
                backend = values.get("servers.backend", "embedded")
                warnings.append(f"{sources[key]}: `{key}` is ignored, because `servers.backend` is {backend}.")
                sources[key] = "default"

    config = LoomConfig(
        project_dir=root,
        agent_id=env.get("LOOM_AGENT_ID") or None,
        skills_api_key=env.get(API_KEY_VARIABLE) or None,
        warnings=tuple(warnings),
        sources=sources,
        **{key: value for key, value in values.items() if "." not in key},
        **{name: cls(**_of_section(name, values)) for name, cls in _SECTIONS.items()},
    )
    if config.database.pool_min > config.database.pool_max:
        raise ConfigError(
            f"{sources['database.pool_min']}: `database.pool_min` is {config.database.pool_min}, "
            f"above `database.pool_max`, which is {config.database.pool_max}.",
            "Lower the one or raise the other.",
        )
    return config


def user_config_path() -> Path:
    """The user's own file, whether it exists or not."""
    return Path.home() / ".loom" / "config.yaml"


def find_project(start: Path) -> Path | None:
    """The nearest directory at or above `start` that holds `.loom/config.yaml`, None when there is none.

    In a linked git worktree the same directory of the main worktree comes first, so that all worktrees of a
    repository are one project.
    """
    start = start.resolve()
    chain = [start, *start.parents]
    linked = [(worktree, main) for worktree in chain if (main := _main_worktree(worktree))]
    own = user_config_path().parent.resolve()
    for directory in chain:
        twins = [main / directory.relative_to(tree) for tree, main in linked if directory.is_relative_to(tree)]
        for candidate in [*twins[:1], directory]:
            if (candidate / ".loom" / "config.yaml").is_file() and candidate / ".loom" != own:
                return candidate
    return None


def _main_worktree(directory: Path) -> Path | None:
    """The main worktree's root, when `directory` is the root of a linked one."""
    try:
        pointer = (directory / ".git").read_text()
    except (OSError, UnicodeDecodeError):  # none, or a directory: not a linked worktree
        return None
    git_dir = directory / pointer.removeprefix("gitdir:").strip()
    try:
        common = (git_dir / (git_dir / "commondir").read_text().strip()).resolve()
    except (OSError, UnicodeDecodeError):  # a submodule
        return None
    return common.parent if common.name == ".git" else None


def _locate(project_dir: Path | None, env: Mapping[str, str], warnings: list[str]) -> Path | None:
    if project_dir is not None:
        return find_project(project_dir)
    named = env.get("LOOM_PROJECT_DIR", "")
    if not named or named.startswith("${"):  # a client that does not expand the default in .mcp.json
        return find_project(Path.cwd())
    root = find_project(Path(named).expanduser())
    if root is None:
        warnings.append(
            f"LOOM_PROJECT_DIR names {named}, and neither it nor a directory above it holds .loom/config.yaml; "
            "run `loom init` there or correct the variable."
        )
    return root


def _read_layer(path: Path, warnings: list[str]) -> dict[str, Any]:
    """The valid keys of one file, dotted. A missing file is an empty one; a key without a value counts as absent."""
    flat: dict[str, Any] = {}
    for key, value in _read_yaml(path).items():
        if key in _SECTIONS:
            if value is None:
                continue
            if not isinstance(value, dict):
                raise ConfigError(f"{path}: `{key}` must be a mapping of keys.", "Correct it in that file.")
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            flat[str(key)] = value
    layer: dict[str, Any] = {}
    for key, value in flat.items():
        if key not in KEYS:
            warnings.append(f"{path}: unknown key `{key}`; the nearest valid key is `{_nearest(key)}`.")
        elif value is not None:
            try:
                layer[key] = KEYS[key].accept(value)
            except ValueError:
                raise _wrong(f"{path}: `{key}`", KEYS[key], value, "Correct it in that file.") from None
    return layer


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} cannot be read: {reason}.", "Correct the file.") from None
    data = _parse_yaml(text, path)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must be a mapping of keys.", "Correct the file.")
    return data


def _parse_yaml(text: str, path: Path) -> Any:
    try:
        return documents.load(text, depth=_DEPTH)
    except documents.DocumentError as error:
        raise ConfigError(f"{path} {error.told()}.", error.advice) from None


def _variable_layers(env: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, rule in KEYS.items():
        text = env.get(rule.variable, "") if rule.variable else ""
        if text:
            try:
                yield rule.variable, {key: rule.parse(text)}
            except ValueError:
                raise _wrong(f"The variable {rule.variable}", rule, text, "Correct it or unset it.") from None


def _wrong(what: str, rule: _Rule, value: object, next_step: str) -> ConfigError:
    shown = "" if rule.secret else f", and is {str(value)[:80]!r} ({type(value).__name__})"
    return ConfigError(f"{what} must be {rule.wanted}{shown}.", next_step)


def _nearest(key: str) -> str:
    def likeness(valid: str) -> float:
        whole = difflib.SequenceMatcher(None, key, valid).ratio()
        last = difflib.SequenceMatcher(None, key.rpartition(".")[2], valid.rpartition(".")[2]).ratio()
        return whole + last

    return max(KEYS if "." in key else [*KEYS, *_SECTIONS], key=likeness)


def _of_section(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{name}.")}


def _reach(config: LoomConfig, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section) if section else config, name)


# --- writing ---------------------------------------------------------------------------------------------------------


def set_value(path: Path, key: str, value: str | float) -> None:
    """Write one key into a configuration file, made when missing. Comments stay unless the file is in flow style.

    Args:
        value: text is converted to what the key wants.

    Raises:
        ConfigError: no such key, a value that it does not accept, or a file that cannot be read.
    """
    if key not in KEYS:
        raise ConfigError(f"There is no key `{key}`.", f"The nearest valid key is `{_nearest(key)}`.")
    rule = KEYS[key]
    try:
        checked = rule.parse(value) if isinstance(value, str) else rule.accept(value)
    except ValueError:
        raise _wrong(f"`{key}`", rule, value, "Give another value.") from None

    wanted = _read_yaml(path)
    section, _, name = key.rpartition(".")
    if section:
        inner = wanted.get(section)
        wanted[section] = {**(inner if isinstance(inner, dict) else {}), name: checked}
    else:
        wanted[name] = checked
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    text = _edited(old, section, _dumped({name: checked}).rstrip("\n"))
    try:
        faithful = _parse_yaml(text, path) == wanted
    except ConfigError:
        faithful = False
    write_atomically(path, text if faithful else "# Rewritten by `loom config set`.\n" + _dumped(wanted))


def _dumped(data: Mapping[Any, Any]) -> str:
    import yaml

    return yaml.safe_dump(data, allow_unicode=True, sort_keys=False, width=1_000_000)


def _edited(text: str, section: str, entry: str) -> str:
    """`text` with the line `entry` ("name: value") put into `section` by its lines; the caller checks the result."""
    lines = text.splitlines()
    name = re.escape(entry.partition(":")[0])
    start, end, indent = 0, len(lines), ""
    if section:
        heads = [number for number, line in enumerate(lines) if re.match(rf"{section}:\s*(#.*)?$", line)]
        if not heads:
            return "\n".join([*lines, f"{section}:", f"  {entry}", ""])
        start = heads[0] + 1
        end = next((n for n in range(start, len(lines)) if re.match(r"[^\s#]", lines[n])), len(lines))
        first = next((line for line in lines[start:end] if re.match(r"\s+[^\s#]", line)), "  ")
        indent = first[: len(first) - len(first.lstrip())]
    for number in range(start, end):
        if found := re.match(rf"{indent}{name}:(?:\s[^#]*?)?(\s+#.*)?$", lines[number]):
            lines[number] = f"{indent}{entry}{found[1] or ''}"
            break
    else:
        lines.insert(start if section else end, f"{indent}{entry}")
    return "\n".join([*lines, ""])


def write_atomically(path: Path, text: str, mode: int | None = None) -> None:
    """Replace a file in one step: a reader sees the old text or the new, also after a crash.

    Args:
        mode: permission bits; None keeps those of the file that is there, 0600 for a new one.
    """
    import tempfile

    path = path.resolve()  # a symbolic link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode is None:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(name, path)  # noqa: PTH105  # both are plain names already
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise


# --- trust -----------------------------------------------------------------------------------------------------------


def guarded(project_dir: Path) -> dict[str, str]:
    """What in this project counts only when trusted: name to SHA-256.

    Names are dotted keys of `GUARDED`, `docker-compose.loom.yml`, and paths below `.loom` such as `skills/plan.md`.
    """
    layer = _read_layer(project_dir / ".loom" / "config.yaml", [])
    names = {key: _digest(json.dumps(layer[key]).encode()) for key in GUARDED if _guards(key, layer)}
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
    untrusted = _untrusted(project_dir)
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


def _drop_untrusted(root: Path, path: Path, layer: dict[str, Any], warnings: list[str]) -> None:
    held = [key for key in GUARDED if _guards(key, layer)]
    if not held:
        return
    untrusted = _untrusted(root)
    if COMPOSE_FILE in untrusted:
        untrusted.add("servers.backend")
    refused = [key for key in held if key in untrusted]
    for key in refused:
        del layer[key]
    if refused:
        names = ", ".join(f"`{key}`" for key in refused)
        verb = "are" if refused[1:] else "is"
        warnings.append(f"{path}: {names} {verb} ignored until you allow it on this machine with `loom config trust`.")


def _untrusted(project_dir: Path) -> set[str]:
    recorded = _trusted().get(str(project_dir.resolve()), {})
    return {name for name, digest in guarded(project_dir).items() if recorded.get(name) != digest}


def _guards(key: str, layer: Mapping[str, Any]) -> bool:
    """Whether this key of a project's file needs trust. Of the backends only docker runs what the repository brings."""
    return key in layer and (key != "servers.backend" or layer[key] == "docker")


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
