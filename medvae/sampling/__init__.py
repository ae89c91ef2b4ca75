"""From prepared volumes to batches of tiles."""
