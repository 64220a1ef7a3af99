"""Who answers a skill's prompt: a program of this machine (`commands.py`), or a model behind an HTTP API (`apis.py`).

`choose` finds the one that a configuration names, `at_hand` the one that a person's own question goes to.
"""

from __future__ import annotations

from loom.config import LoomConfig
from loom.config.inside import inside_run
from loom.exceptions import ConfigError
from loom.skills.commands import AGENTS, AgentProvider, CommandProvider, where
from loom.skills.completion import Provider
from loom.wording import Shell, Words


def choose(config: LoomConfig, name: str | None = None) -> Provider | None:
    """The provider of that name, by default the configured one; None for `agent`, where the caller is the model.

    Raises:
        ConfigError: no such provider, or something that it needs is not set.
    """
    skills = config.skills
    wanted = name or skills.provider or ("command" if skills.command else "agent")
    match wanted:
        case "agent":
            return None
        case "command":
            if not skills.command:
                raise ConfigError(
                    "The provider is command, but skills.command is not set.",
                    Words("Run {}, or name another provider.", Shell("loom config set skills.command COMMAND")),
                )
            return CommandProvider(skills.command, config.project_dir)
        case "claude" | "codex":
            return AgentProvider(wanted, config.project_dir)
        case "anthropic" | "openai":
            from loom.skills import apis

            chosen = apis.AnthropicProvider if wanted == "anthropic" else apis.OpenAIProvider
            return chosen(config.skills_api_key, skills.base_url, skills.model)
    raise ConfigError(
        f"skills.provider is {wanted}, which does not exist.", "Use agent, claude, codex, command, anthropic or openai."
    )


def at_hand(config: LoomConfig, name: str | None = None) -> Provider | None:
    """The same for what a person asks in a terminal, where no model is the caller: should nothing be configured, a
    coding agent that is installed here. An agent that Loom itself has started is no person; it gets None.

    Raises:
        ConfigError: as `choose`.
    """
    if name or config.skills.provider or config.skills.command or inside_run():
        return choose(config, name)
    return next((AgentProvider(one, config.project_dir) for one in AGENTS if where(one)), None)
