"""Encoded images from anywhere, decoded to the pixels of a network's input."""
