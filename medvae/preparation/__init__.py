"""From an input scan to a prepared volume on the standard grid, and back."""
