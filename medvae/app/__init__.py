"""A page on this computer: scans are dropped on it, predicted as ``medvae predict`` does, and looked at in a viewer."""
