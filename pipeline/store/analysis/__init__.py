"""Reading a run for analysis: what ``open_run`` returns."""
