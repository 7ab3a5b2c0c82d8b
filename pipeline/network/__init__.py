"""What a network is: how it is built, its graph, layers, taps and receptive fields."""
