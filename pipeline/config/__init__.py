"""The configuration of a run: its tables and keys, reading it from TOML, and the reference of every key."""
