"""What the message of a commit says whose work it brings: its subject and its trailers; and where an agent has written
such trailers itself."""

from __future__ import annotations

import re

from loom.texts import one_line, shorten

_SUBJECT = 72  # characters
_TASK, _AGENT = "Loom-Task", "Loom-Agent"
_ANY = re.compile(rf"^[^\S\n]*({_TASK}|{_AGENT})[^\S\n]*:(.*)$", re.IGNORECASE | re.MULTILINE)


def subject(title: str) -> str:
    """A task's title as the first line of a message, or a line of several."""
    return shorten(one_line(title), _SUBJECT)


def lines(task_id: str, agent: str) -> list[str]:
    """The trailers of one task."""
    return [f"{_TASK}: {task_id}", f"{_AGENT}: {agent}"]


def speaks_for_others(message: str, task_id: str, agent: str) -> bool:
    """Whether a message has such a line that is not of this task and agent."""
    own = {(_TASK.lower(), task_id), (_AGENT.lower(), agent)}
    return any((found[1].lower(), found[2].strip()) not in own for found in _ANY.finditer(message))
