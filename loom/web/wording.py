"""What the board calls things."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

_TYPED = re.compile("`([^`\n]{1,200})`")


def typed(text: str) -> Markup:
    """A sentence in which what somebody is to type stands between backticks, as HTML."""
    return Markup(_TYPED.sub(r"<code>\1</code>", str(escape(text))))


SIGNS = {
    "ready": "ready",
    "claimed": "working",
    "proving": "proving",
    "landing": "landing",
    "blocked": "waiting",
    "retry": "to be tried again",
    "dead": "dead",
    "failed": "failed",
    "done": "done",
    "cancelled": "cancelled",
    "epic": "epic",
}
"""Each state that has a sign, and what it is called."""

SAID = {
    "created": "Created.",
    "answer": "Answered; the task goes on.",
    "retry": "It is tried again.",
    "reassign": "Given to another agent.",
    "waive": "Waived; nothing waits for it any more.",
    "cancel": "Cancelled.",
    "release": "Given back; somebody else can take it up.",
    "approve": "Approved; it lands next.",
    "refuse": "Sent back to its worker.",
    "priority": "The priority is changed.",
    "defer": "Put off until it is tried again.",
    "edit": "Changed.",
    "note": "Kept.",
    "reopen": "It is done again.",
    "yes": "Answered with yes; it goes on.",
    "resume": "It goes on.",
    "no": "Answered with no; it has ended.",
    "write": "The plan is written; work can begin.",
    "decline": "Refused; whoever proposed it is told.",
    "several": "Done with all of them.",
}
"""What a page says after each, which is all that an address can make it say."""

WAYS = {
    "p0": "Give it priority p0",
    "p1": "Give it priority p1",
    "p2": "Give it priority p2",
    "note": "Keep the text as a note",
    "defer": "Put it off; the text says why",
    "answer": "Answer its question with the text",
    "retry": "Try it again, with the text as a note",
    "reassign": "Give it to the agent that the text names",
    "release": "Take its claim away",
    "approve": "Approve its landing",
    "refuse": "Send its landing back, with the text as a note",
    "waive": "Go on without it",
    "cancel": "Cancel it",
    "reopen": "Do it again",
}
"""What can be done with the tasks that are chosen on the board."""
