"""Telling people, wherever they are, that something waits for them: by Slack, ntfy, a webhook or a command of theirs.

`news.py` says what of the events is told and in which words, `senders.py` how it gets there, `teller.py` when, by which
of several processes, and what becomes of it while the other side is away. `digest.py` writes the days down.
"""
