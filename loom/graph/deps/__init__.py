"""What follows from a change along dependencies and epics."""
