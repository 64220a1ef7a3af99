"""What may be done to the graph, and what that does: each function runs inside an open `Transaction`."""
