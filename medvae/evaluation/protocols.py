"""Named protocols: evaluation conventions of others, so that results are comparable with theirs.

A protocol says which voxels count, how a map is processed before evaluation, which scans are pooled, and how the best
Dice is searched; `medvae.evaluation.conventions` implements it. The metric code is the same for all of them.
docs/EVALUATION.md says what each one reproduces and what it does not.
"""

from __future__ import annotations

from dataclasses import dataclass

from medvae.errors import MedvaeError


@dataclass(frozen=True)
class Protocol:
    """Evaluation conventions; the defaults are medvae's own."""

    name: str
    source: str
    """Source of the conventions."""
    whole_volume: bool = False
    """Count every voxel of the file, and lesion outside the brain too; else the voxels of the brain."""
    zeroed_background: bool = False
    """Outside the brain a map is set to 0, or to its lowest value if that is negative: the lowest rank."""
    rim: int = 0
    """Width in voxels of the square in the axial plane that erodes the brain; removed voxels get the same value.
    A voxel stays if more than 95 % of the square lies in the brain. 0: no erosion."""
    median: int = 0
    """Width in voxels of a median filter in the axial plane. 0: none."""
    clipped: bool = False
    """Scores are rounded to half precision and clipped to [0, 1]."""
    zeros_for_failures: bool = False
    """A map that is missing, unreadable or of another shape counts as 0 everywhere, for healthy scans too; header
    affines are not compared."""
    healthy_pooled: bool = False
    """Healthy scans are pooled with lesion scans."""
    smallest_component: int = 0
    """At the threshold of the best Dice, components of at most this many voxels are removed, and Dice is recomputed."""
    dice_steps: int | None = None
    """Number of thresholds for the best Dice, evenly spaced from the lowest to the highest score; None: all scores."""
    trapezoid: bool = False
    """Also report the area under the precision-recall curve by trapezoids."""
    operating_points: bool = True
    """Thresholds are taken from sidecars or healthy validation maps; else only given ones are used."""
    brats_lesions: bool = False
    """Also report lesion-wise Dice and HD95, see `medvae.evaluation.brats`."""


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("medvae", "docs/EVALUATION.md"),
        Protocol(
            "mood",
            "Zimmerer et al. 2022, doi:10.1109/TMI.2022.3170077; scripts/evalresults.py of MIC-DKFZ/mood",
            whole_volume=True, clipped=True, zeros_for_failures=True, healthy_pooled=True, operating_points=False,
        ),
        Protocol(
            "meissen",
            "Meissen et al. 2021, arXiv 2109.06023; utils/evaluation.py of FeliMe/brain_sas_baseline",
            whole_volume=True, zeroed_background=True, smallest_component=20, dice_steps=100, trapezoid=True,
            operating_points=False,
        ),
        Protocol(
            "dae",
            "Kascenas et al. 2022, openreview Bm8-t_ggzPD; src/evaluate.py of AntanasKascenas/DenoisingAE",
            whole_volume=True, zeroed_background=True, rim=5, median=5, smallest_component=20, operating_points=False,
        ),
        Protocol(
            "brats2023",
            "BraTS 2023, rachitsaluja/BraTS-2023-Metrics",
            brats_lesions=True,
        ),
    )
}  # fmt: skip
"""Protocols by name."""


def named_protocol(name: str) -> Protocol:
    """The protocol with this name.

    Raises
    ------
    MedvaeError
        If there is none.
    """
    if name not in PROTOCOLS:
        raise MedvaeError(f'--protocol: "{name}" is none of {", ".join(PROTOCOLS)}.')
    return PROTOCOLS[name]
