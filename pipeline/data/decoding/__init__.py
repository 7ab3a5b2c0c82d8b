"""From the bytes of an image to the pixels of the network's input."""
