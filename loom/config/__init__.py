"""Configuration: three layers merged into one frozen object, and the record of what a user trusts.

Later wins: `~/.loom/config.yaml`, the project's `.loom/config.yaml`, `LOOM_*` variables. An unknown key is a warning, a
wrong value a `ConfigError`. `keys.py` says what keys there are, `rules.py` what one of them accepts, `dotted.py`
finds them by name; `loading.py` merges, `files.py` finds, reads and writes, and `trust.py` keeps what a cloned
repository brings along from counting before its user has allowed it.
"""

from __future__ import annotations

from loom.config.files import find_project, logs_dir, path_in_repository, set_value, user_config_path
from loom.config.keys import (
    API_KEY_VARIABLE,
    COMPOSE_FILE,
    KEYS,
    CheckConfig,
    DatabaseConfig,
    LandingConfig,
    LoomConfig,
    McpConfig,
    OrchestrationConfig,
    ReceiverConfig,
    RedisConfig,
    RetentionConfig,
    ServerConfig,
    ServersConfig,
    SetupConfig,
    SkillsConfig,
    WorkConfig,
)
from loom.config.loading import load_config, secret
from loom.config.trust import GUARDED_BYTES, gone, guarded, is_trusted, set_trusted, trust, untrusted

__all__ = [
    "API_KEY_VARIABLE",
    "COMPOSE_FILE",
    "GUARDED_BYTES",
    "KEYS",
    "CheckConfig",
    "DatabaseConfig",
    "LandingConfig",
    "LoomConfig",
    "McpConfig",
    "OrchestrationConfig",
    "ReceiverConfig",
    "RedisConfig",
    "RetentionConfig",
    "ServerConfig",
    "ServersConfig",
    "SetupConfig",
    "SkillsConfig",
    "WorkConfig",
    "find_project",
    "gone",
    "guarded",
    "is_trusted",
    "load_config",
    "logs_dir",
    "path_in_repository",
    "secret",
    "set_trusted",
    "set_value",
    "trust",
    "untrusted",
    "user_config_path",
]
