"""A fleet of scripted agents, honest and otherwise, on one repository: what lands is held against git and /proc.

    uv run python -m tests.fleet --seed 1

`repository.py` makes a repository from a seed and `orders.py` a plan for it, with what each agent is to do and to what
it must come; `agent.py` is what `loom work` runs; `play.py` lets two terminals work while workers and servers are
killed; `judge.py` looks at what came of it.
"""
