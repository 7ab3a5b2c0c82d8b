"""The command line: the program ``topnine``."""
