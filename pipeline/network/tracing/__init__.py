"""One forward pass of a network, recorded: its operations, and what they do."""
