"""From a trained network to a detector: thresholds, guarantees, masks, ensembles."""
