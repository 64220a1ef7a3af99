"""Identifiers: what they look like, and how to draw one."""

from __future__ import annotations

import re
import secrets
import uuid

TASK_ID = re.compile(r"loom-[0-9a-f]{8}")
PROJECT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
AGENT_NAME = re.compile(r"[A-Za-z0-9._:@/-]{1,64}")
_CLAIM_TOKEN = re.compile(r"[0-9]{1,18}")  # as many digits as a bigint holds whatever they are


def task_id() -> str:
    """A fresh task id, `loom-` and 8 hex digits. Whether it is taken, only the project's table knows."""
    return f"loom-{secrets.token_hex(4)}"


def project_id() -> str:
    """A fresh project id, a random UUID."""
    return str(uuid.uuid4())


def claim_token(text: str) -> int | None:
    """The token of a claim that a text says; None for any other text."""
    return int(text) if _CLAIM_TOKEN.fullmatch(text) else None


def agent_name(prefix: str) -> str:
    """A fresh name for an agent that gave none, for example `agent-1f0c9a`."""
    return f"{prefix}-{secrets.token_hex(3)}"
