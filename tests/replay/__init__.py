"""A real repository's own history, done again by eight agents at once, without a model.

    uv run python -m tests.replay DIR --last 60 --check "python3 -m unittest"

`history.py` makes tasks of the last commits, and says which waits for which; `agent.py` is what `loom work` runs: it
merges its task's change onto what it finds; `play.py` has them worked on while workers are killed, and holds what
landed against the history.
"""
