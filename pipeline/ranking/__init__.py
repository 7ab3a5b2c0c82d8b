"""The strongest activations of every filter, and statistics of all of them: pure numpy."""
