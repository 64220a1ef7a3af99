"""Workers: any command as an agent, each claim a run of it, and what becomes of the result."""
