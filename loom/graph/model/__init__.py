"""The graph as values: a task, a plan, their limits. Nothing here asks a server."""
