"""medvae: find what does not belong in a brain MRI, having seen healthy scans only.

The public API is imported from the module that owns it, in the order in which a volume travels:
``manifest -> preparation -> sampling -> training -> detector -> calibration -> evaluation -> reporting``.
"""

__version__ = "0.1.0"
