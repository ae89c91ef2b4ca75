"""medvae: find what does not belong in a brain MRI, having seen healthy scans only.

The public API is imported from the module that owns it, in the order in which a volume travels:
``manifest -> preparation -> sampling -> training -> detector -> calibration -> evaluation -> reporting``.
"""

import os

# Waiting threads sleep instead of spinning: on two busy cores a training step took 0.33 s instead of 0.64 s.
# OpenMP reads this once, when torch is first imported; a value that the user has set is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
