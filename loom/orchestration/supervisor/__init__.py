"""One loop that keeps a project going: sweeps, carries workflows on, has failures diagnosed, says what is left."""
