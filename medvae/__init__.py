"""medvae: find lesions in brain MRI after training on healthy scans only.

The public API is imported from the module that owns it, in the order of processing: ``manifest → preparation →
normative → sampling → networks → training → scoring → detection → evaluation → reporting``.

One name belongs to the package itself: `medvae.predict`, for a notebook. Its imports are inside the function, so that
``import medvae`` (which every command and every worker process does first) takes no time and no PyTorch, while
``help(medvae.predict)`` and type checkers see a plain function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from medvae.detection.base import Calibrated, Maps

__version__ = "0.1.0"


def predict(
    scan: Path | str | Mapping[str, Path | str],
    detector: Calibrated | Path | str = "t1-2mm",
    out: Path | str | None = None,
    *,
    mask: Path | str | None = None,
    at: float | str | None = None,
    cache: Path | None = None,
) -> Maps:
    """Find lesions in one scan: ``maps = medvae.predict("scan.nii.gz")``.

    Parameters
    ----------
    scan
        A file, or the file of each sequence by its name: ``{"T1": "t1.nii.gz", "FLAIR": "flair.nii.gz"}``.
    detector
        The name of a detector that comes with medvae, "auto" for the one of these that is for the scan's sequence, a
        run folder, a detector's folder, or a loaded detector.
    out
        A folder to which maps and sidecars are also written, as ``medvae predict`` does; otherwise nothing is written.
    mask
        The file of the brain mask; the brain is found without it.
    at
        Operating point of the lesion mask, by its false-positive rate or its name; the detector's own by default.
    cache
        Folder of prepared scans: scans it holds are reused, new ones are added.

    Returns
    -------
    Maps
        ``anomaly``, ``lesion_mask`` and ``spread`` on the scan's own grid, ``lesion_volume_ml``, and ``notes``, which
        say whether the scan looks like another sequence than the detector's.

    Raises
    ------
    MedvaeError
        If the scan cannot be read or prepared, or its file's name says that it is of another sequence.
    """
    from medvae.prediction import predict_one

    return predict_one(scan, detector, out, mask=mask, at=at, cache=cache)
