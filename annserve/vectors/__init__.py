"""Rows come in: files of vectors, read in bounded memory; samples, exact neighbours, synthetic sets."""
