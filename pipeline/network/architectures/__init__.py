"""The networks of this project's own, and the weights of tiny_zfnet."""
