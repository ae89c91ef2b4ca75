"""Names of what `medvae predict` writes: BIDS derivatives."""

from __future__ import annotations

MAP_SUFFIX = "_desc-anomaly_probseg.nii.gz"
MASK_SUFFIX = "_label-lesion_mask.nii.gz"
SPREAD_SUFFIX = "_desc-spread_probseg.nii.gz"
DESCRIPTION = "dataset_description.json"
VIEWERS = "viewers"
"""Folder of additional files for viewers, apart from those that a person opens."""
FAILURES = "failures.json"
"""Errors of the scans on which `predict` failed, until it succeeds; absent if there are none."""
