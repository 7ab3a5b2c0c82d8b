"""The parts of topnine: each does one thing, and none knows a stage or the command line. See README.md."""
