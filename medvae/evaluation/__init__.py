"""Evaluation of anomaly maps against the truth."""
