"""Per-voxel scores: functions of a network and a tile, or of the scan alone, and the map put together from tiles."""
