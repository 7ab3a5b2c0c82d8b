"""The jobs, in order: index, mine, rank, deconvolve, tile, gallery. No stage imports another."""
