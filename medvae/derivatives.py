"""Names of what `medvae predict` writes: BIDS derivatives."""

from __future__ import annotations

MAP_SUFFIX = "_desc-anomaly_probseg.nii.gz"
MASK_SUFFIX = "_label-lesion_mask.nii.gz"
SPREAD_SUFFIX = "_desc-spread_probseg.nii.gz"
DESCRIPTION = "dataset_description.json"
VIEWERS = "viewers"
"""Folder of what is handed to viewers besides the files that a person opens."""
FAILURES = "failures.json"
"""Why the scans failed that the last `predict` could not finish; absent if there were none."""
