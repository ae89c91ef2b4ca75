"""From a scan as it comes to a prepared volume on the standard grid, and back."""
