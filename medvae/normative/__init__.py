"""Normative model of healthy brains at each location, and the network inputs derived from it."""
