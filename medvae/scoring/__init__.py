"""Per-voxel scores of a scan, one file per family; each registers itself under its declared name (see `registry`)."""
