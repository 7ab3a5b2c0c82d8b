"""Batches on a device: activations, projections and classifications. Host arrays go in and come out."""
