"""Lesion masks under the name by which fMRIPrep finds them: ``sub-LABEL[_ses-LABEL]_label-lesion_roi.nii.gz``.

The file is the mask of the derivatives, on the grid of the T1w image, and lies in the same relative place; a person
copies it into the raw data set, which medvae never changes.
"""

from __future__ import annotations

from pathlib import Path

from medvae.derivatives import MASK_SUFFIX, ROI_SUFFIX, read_mask_sidecar
from medvae.files import told, write_bytes
from medvae.prediction_folder import sidecar_path


def refresh_roi(mask: Path, *, wanted: bool) -> Path | None:
    """Write the file beside a lesion mask if it is wanted, or if there is one, which may be of an older mask.

    Returns
    -------
    Path or None
        None if there is no file: it was not wanted, or nothing was found. An empty mask would mask nothing.
    """
    roi = mask.with_name(mask.name.removesuffix(MASK_SUFFIX) + ROI_SUFFIX)
    if not wanted and not roi.exists():
        return None
    if not read_mask_sidecar(sidecar_path(mask)).get("LesionVolumeMl"):
        with told(roi):
            roi.unlink(missing_ok=True)
        return None
    return write_bytes(roi, mask.read_bytes())
