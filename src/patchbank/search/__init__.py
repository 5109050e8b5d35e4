"""Nearest neighbours of patches in the memory bank."""
