"""What keys there are: their types, limits and variables, and which of them are guarded.

A key is a field of one of the dataclasses below; the `Rule` in its metadata (`rules.py`) says what it accepts. A field
that is made by another dataclass is a section, which holds keys of its own. One with `table`, a dataclass, in its
metadata is any number of rows with such keys, by name; several layers' rows are merged key by key. A key's dotted name
is `mcp.port`, or `checks.unit.timeout` for the row `unit` of a table `checks`.

A key that starts a program, sends data elsewhere or names a receiver is guarded: in a project's file it counts only
once the user trusts it (`trust.py`), and so does each row of a table that has such a key, as a whole. One that binds
is a demand on the work: once it is trusted, to take it out of the file or to change it lifts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loom.config.dotted import Keys
from loom.config.rules import ROW_NAME, is_url, number, paths, text, url, whole, words, zone

COMPOSE_FILE = "docker-compose.loom.yml"
API_KEY_VARIABLE = "LOOM_SKILLS_API_KEY"
NEWS = ("question", "dead_letter", "confirm", "complete")
"""What a person can be told of."""

_BRANCH = r"(?![-/])(?!.*(?:\.\.|@\{|//|/\.|\.lock(?:/|$)))(?![.@]$)[^\x00-\x20\x7f~^:?*\[\\]{1,200}(?<![/.])"
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_SPAN = rf"{_TIME}-{_TIME}"


@dataclass(frozen=True)
class DatabaseConfig:
    url: str | None = url("postgresql|postgres", "LOOM_DATABASE_URL")  # None: where the backend puts it
    password_command: tuple[str, ...] = words(of="words", guarded=True)
    pool_min: int = whole(2, 0, 100)
    pool_max: int = whole(10, 1, 100)
    pooler: str = text("none", "one of none, session, transaction", "none|session|transaction")
    # None: always with servers that Loom starts, else only where there is nothing yet
    migrate: str | None = text(None, "one of always, empty, never", "always|empty|never")
    # None: where connections come to by themselves
    schema: str | None = text(None, "up to 63 of a-z, 0-9 and _, no digit first", "[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True)
class RedisConfig:
    url: str | None = url("redis|rediss|unix", "LOOM_REDIS_URL")  # None: where the backend puts it
    stream_maxlen: int = whole(10_000, 100, 10_000_000)


@dataclass(frozen=True)
class McpConfig:
    host: str = text("127.0.0.1", "a host name or address", r"[A-Za-z0-9._:\[\]-]+", variable="LOOM_MCP_HOST")
    port: int = whole(8765, 1, 65535, "LOOM_MCP_PORT")
    public_url: str | None = url("https|http")  # where people reach the board
    hub: str = text("auto", "one of auto, never", "auto|never", variable="LOOM_MCP_HUB")


@dataclass(frozen=True)
class ServersConfig:
    backend: str = text(
        "embedded",
        "one of embedded, docker, external",
        "embedded|docker|external",
        guarded=("docker",),  # it alone runs what the repository brings
    )
    instance: str = text("default", "up to 32 of a-z, 0-9, - and _", "[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class ServerConfig:
    """The server that the project is behind, reached over HTTP; without one its database is used."""

    url: str | None = text(
        None,
        "a URL that begins with https:// or http://",
        r"https?://[^\s]+",
        fits=is_url,
        variable="LOOM_SERVER_URL",
        guarded=True,
    )


@dataclass(frozen=True)
class OrchestrationConfig:
    claim_ttl_seconds: int = whole(600, 1, 7 * 86400, "LOOM_CLAIM_TTL")
    deadline_seconds: int = whole(14400, 1, 30 * 86400)
    idle_limit_seconds: int = whole(1800, 1, 30 * 86400)
    sweep_seconds: float = number(5.0, 0.05, 3600)
    max_retries: int = whole(3, 0, 100, "LOOM_MAX_RETRIES")
    backoff_base_seconds: int = whole(60, 0, 86400)
    backoff_cap_seconds: int = whole(3600, 0, 7 * 86400)
    diagnoses_per_hour: int = whole(6, 1, 1000)
    fix_depth: int = whole(2, 1, 10)


@dataclass(frozen=True)
class RetentionConfig:
    """Days that are kept of what nobody needs any more; 0 keeps it for ever."""

    events_days: int = whole(365, 0, 36_500)
    messages_days: int = whole(365, 0, 36_500)
    runs_days: int = whole(365, 0, 36_500)


@dataclass(frozen=True)
class SkillsConfig:
    provider: str | None = text(
        None, "the name of a provider", "[A-Za-z0-9_.-]+", variable="LOOM_SKILLS_PROVIDER", guarded=True
    )
    model: str | None = text(None, "the name of a model", variable="LOOM_SKILLS_MODEL")
    base_url: str | None = url("https|http", "LOOM_SKILLS_BASE_URL")
    command: str | None = text(None, "a command line", guarded=True)


@dataclass(frozen=True)
class CheckConfig:
    """A check: a command that says with exit status 0 that the work is as it should be."""

    command: tuple[str, ...] = words(None, of="words", guarded=True, binding=True)
    timeout: int = whole(900, 1, 86400)
    protect: tuple[str, ...] = paths()
    keep: tuple[str, ...] = paths()
    env: tuple[str, ...] = words(of="names of variables", pattern="[A-Za-z_][A-Za-z0-9_]{0,199}")
    proofs: str = text("tree", "one of tree, commit", "tree|commit")


@dataclass(frozen=True)
class LandingConfig:
    """Where work lands, and what it needs before."""

    target: str | None = text(None, "the name of a branch", _BRANCH)  # None: Loom's own
    checks: tuple[str, ...] = words(of="names of checks", pattern=ROW_NAME, guarded=True, binding=True)
    remote: str | None = text(None, "the name of a remote", "[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", guarded=True)
    approve: tuple[str, ...] = paths(guarded=True, binding=True, alone="all")
    propose: tuple[str, ...] = words(of="words", guarded=True)
    trusted_git: tuple[str, ...] = words(
        of="hooks and filter.NAME", pattern=r"hooks|filter\.[A-Za-z0-9_-]{1,64}", guarded=True
    )


@dataclass(frozen=True)
class SetupConfig:
    """What makes a fresh worktree one to work in."""

    command: tuple[str, ...] = words(of="words", guarded=True)
    inputs: tuple[str, ...] = paths()


@dataclass(frozen=True)
class WorkConfig:
    """What an agent's worktree has, and what an agent may do."""

    setup: SetupConfig = field(default_factory=SetupConfig)
    keep: tuple[str, ...] = paths()
    copy: tuple[str, ...] = paths()
    allow: tuple[str, ...] = words(of="texts", guarded=True)
    silence_seconds: int = whole(900, 1, 7 * 86400)


@dataclass(frozen=True)
class ReceiverConfig:
    """Where a person is told what happens: one of the first five, and what of it, when."""

    slack: str | None = url("https|http", hidden=True)  # whoever knows it may write there
    ntfy: str | None = url("https|http", hidden=True)  # and read
    webhook: str | None = url("https|http", hidden=True)
    command: tuple[str, ...] = words(of="words", guarded=True)
    obsidian: str | None = text(None, "the path of a directory", r"(?:/|~/)[^\x00-\x1f\x7f]{0,500}", guarded=True)
    token: str | None = text(None, "a token", hidden=True)
    secret: str | None = text(None, "a secret", hidden=True)
    events: tuple[str, ...] = words(NEWS, of=f"of {', '.join(NEWS)}", pattern="|".join(NEWS))
    projects: tuple[str, ...] = words(of="names or ids of projects")
    quiet: str | None = text(None, "a time of day to another, such as 22:00-07:00", _SPAN)
    zone: str | None = zone()

    @property
    def kind(self) -> str | None:
        """Which of the five it is; None where it names none of them, or several."""
        named = [kind for kind in ("slack", "ntfy", "webhook", "command", "obsidian") if getattr(self, kind)]
        return named[0] if len(named) == 1 else None


@dataclass(frozen=True)
class LoomConfig:
    """The merged configuration. Make one with `load_config`; the plain constructor gives the defaults."""

    project_dir: Path | None = None  # the directory that holds .loom/
    project_name: str = text(
        "", "a name of at most 200 characters", r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,200}"
    )
    project_id: str | None = text(
        None,
        "a UUID",
        "(?i:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})",
        variable="LOOM_PROJECT_ID",
    )
    log_level: str = text(
        "WARNING",
        "one of DEBUG, INFO, WARNING, ERROR",
        "(?i:DEBUG|INFO|WARNING|ERROR)",
        variable="LOOM_LOG_LEVEL",
    )
    database: DatabaseConfig = field(default_factory=DatabaseConfig)
    redis: RedisConfig = field(default_factory=RedisConfig)
    mcp: McpConfig = field(default_factory=McpConfig)
    servers: ServersConfig = field(default_factory=ServersConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    orchestration: OrchestrationConfig = field(default_factory=OrchestrationConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    skills: SkillsConfig = field(default_factory=SkillsConfig)
    checks: Mapping[str, CheckConfig] = field(default_factory=dict, metadata={"table": CheckConfig})
    landing: LandingConfig = field(default_factory=LandingConfig)
    work: WorkConfig = field(default_factory=WorkConfig)
    notify: Mapping[str, ReceiverConfig] = field(default_factory=dict, metadata={"table": ReceiverConfig})
    agent_id: str | None = None  # LOOM_AGENT_ID; a variable only
    skills_api_key: str | None = field(default=None, repr=False)  # LOOM_SKILLS_API_KEY; a variable only
    warnings: tuple[str, ...] = ()  # sentences to show a person
    sources: Mapping[str, str] = field(default_factory=dict)  # dotted key: "default", a file's path or a variable
    withheld: tuple[str, ...] = ()  # keys and rows that bind and are not in force; see `trust.hold_back`

    @property
    def loom_dir(self) -> Path | None:
        """The project's `.loom` directory, None without a project."""
        return self.project_dir / ".loom" if self.project_dir else None

    def shown(self, *, changed: bool = False) -> dict[str, Any]:
        """Dotted key to value, fit to be printed: passwords in URLs are masked.

        Args:
            changed: only what differs from the defaults.
        """
        usual = dict(KEYS.of(LoomConfig())) if changed else {}
        values = {key: value for key, value in KEYS.of(self) if key not in usual or usual[key] != value}
        return {key: KEYS[key].shown(value) for key, value in values.items()}


KEYS = Keys(LoomConfig)
"""Every key of the configuration."""
