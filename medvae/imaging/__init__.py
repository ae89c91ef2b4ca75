"""Volumes as arrays with a place in the world: files, grids, slices, morphology, components."""
