"""What is believed of a network, held against what it does, before anything is mined."""
