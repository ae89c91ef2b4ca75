"""From tiles of healthy scans to a trained network, in a run folder that can be stopped and resumed."""
