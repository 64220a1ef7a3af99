"""The hub: one warm process that serves all clients of one user and one instance of servers.

A client's `loom mcp` (`loom/bridge.py`) comes to its socket, says in one line who calls, and is served there as it
would be over standard input and output. This package imports nothing by itself: to start the hub, or to end it, takes
little.
"""
