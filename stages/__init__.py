"""The jobs, in order: index, mine, rank, statistics, deconvolve, tile, gallery. No stage imports another."""
