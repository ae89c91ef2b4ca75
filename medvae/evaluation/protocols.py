"""Named protocols: how others measured, so that numbers can stand beside theirs.

A protocol says which voxels count, what is done to a map before it is measured, which scans are pooled, and how the
best Dice is searched; `medvae.evaluation.conventions` does it. The code that measures is the same for all of them. What
each one reproduces, and what it leaves open, is in docs/EVALUATION.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from medvae.errors import MedvaeError


@dataclass(frozen=True)
class Protocol:
    """Conventions of measuring; the defaults are medvae's own."""

    name: str
    source: str
    """Where the conventions are from."""
    whole_volume: bool = False
    """Count every voxel of the file, and lesion outside the brain too; else the voxels of the brain."""
    zeroed_background: bool = False
    """Outside the brain a map gets 0, or its lowest value if that is below 0: the rank that nothing goes below."""
    rim: int = 0
    """Width in voxels of the square in the axial plane that erodes the brain; what it takes away gets the same value.
    A voxel stays if more than 95 % of the square lies in the brain. 0: no erosion."""
    median: int = 0
    """Width in voxels of a median filter in the axial plane. 0: none."""
    clipped: bool = False
    """Scores are rounded to half precision and clipped to [0, 1]."""
    zeros_for_failures: bool = False
    """A map that is missing, unreadable or of another shape counts as 0 everywhere, of a healthy scan too; positions
    in headers are not compared."""
    healthy_pooled: bool = False
    """Healthy scans are pooled with those that hold a lesion."""
    smallest_component: int = 0
    """At the threshold of the best Dice, components of so many voxels or fewer are removed, and Dice is taken again."""
    dice_steps: int | None = None
    """The best Dice is that of so many thresholds, evenly from the lowest to the highest score; None: of all."""
    trapezoid: bool = False
    """Also give the area under the precision-recall curve by trapezoids."""
    operating_points: bool = True
    """Thresholds are taken from sidecars or healthy validation maps; else there are none but those that are given."""
    brats_lesions: bool = False
    """Also give lesion-wise Dice and HD95, see `medvae.evaluation.brats`."""


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
"""By name."""


def named_protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises
    ------
    MedvaeError
        If there is none.
    """
    if name not in PROTOCOLS:
        raise MedvaeError(f'--protocol: "{name}" is none of {", ".join(PROTOCOLS)}.')
    return PROTOCOLS[name]
