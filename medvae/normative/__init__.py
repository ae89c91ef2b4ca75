"""What healthy brains look like at each place, and what a network is shown of it."""
