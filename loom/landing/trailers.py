"""The lines by which a commit of the target says whose work it brings, and where an agent has written such itself."""

from __future__ import annotations

import re

_TASK, _AGENT = "Loom-Task", "Loom-Agent"
_ANY = re.compile(rf"^[^\S\n]*({_TASK}|{_AGENT})[^\S\n]*:(.*)$", re.IGNORECASE | re.MULTILINE)


def lines(task_id: str, agent: str) -> list[str]:
    """Those of one task."""
    return [f"{_TASK}: {task_id}", f"{_AGENT}: {agent}"]


def speaks_for_others(message: str, task_id: str, agent: str) -> bool:
    """Whether a message has such a line that is not of this task and agent."""
    own = {(_TASK.lower(), task_id), (_AGENT.lower(), agent)}
    return any((found[1].lower(), found[2].strip()) not in own for found in _ANY.finditer(message))
