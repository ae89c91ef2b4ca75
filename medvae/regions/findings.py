"""The findings of a lesion mask, each with its size, its place and its values of the anomaly map.

A finding is a connected component of the mask (26 neighbours). Where it lies is told by the atlas, at the places to
which the scan's own way to the template leads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medvae.imaging.components import components
from medvae.imaging.volume import Geometry
from medvae.regions.atlas import Places, region_atlas
from medvae.regions.names import (
    BORDER,
    DEEP_GREY,
    INFRATENTORIAL,
    REGIONS,
    THIRD_VENTRICLE,
    TISSUES,
)

ABUTS_MM = 3.0
"""Two voxels of the atlas whose centres are that close share a face or an edge: nothing lies between them."""
ONE_SIDED = 0.75
"""Share of a finding's volume on one side of the midline that makes it one of this side."""

HEMISPHERES = {
    "left": f"At least {ONE_SIDED:.0%} of the finding lies on the patient's left.",
    "right": f"At least {ONE_SIDED:.0%} of the finding lies on the patient's right.",
    "midline": "Neither: the finding lies on the midline, or crosses it.",
}
LOCATIONS = {
    "infratentorial": "Most of the finding lies in the brainstem, the cerebellum or the fourth ventricle.",
    "periventricular": "It is not infratentorial, and abuts a lateral ventricle.",
    "juxtacortical-cortical": "It is none of these, and abuts cortical grey matter or lies in it.",
    "deep grey matter": "It is none of these; most of it lies in basal ganglia, thalamus, amygdala or basal forebrain.",
    "deep white matter": "It is none of these: white matter that abuts neither ventricle nor cortex.",
}
"""After the topographic criteria of multiple sclerosis (Thompson et al. 2018, doi:10.1016/S1474-4422(17)30470-2, and
Filippi et al. 2019, doi:10.1093/brain/awz144): the first that holds."""


@dataclass(frozen=True)
class Place:
    """Where a finding lies in the brain."""

    centre_mni152_mm: tuple[float, float, float]
    hemisphere: str
    """One of `HEMISPHERES`."""
    region: str
    """The region that holds most of it."""
    region_share: float
    """The share of its volume in that region."""
    tissue: str
    """The tissue of more than half of it; else "border"."""
    location: str | None
    """One of `LOCATIONS`; None in the third ventricle, for which they have no name."""


@dataclass(frozen=True)
class Finding:
    """A connected component of a lesion mask."""

    volume_ml: float
    centre_mm: tuple[float, float, float]
    """Centre of mass, in the scan's own world coordinates (RAS+)."""
    peak: float
    """Highest value of the anomaly map in it."""
    mean: float
    place: Place | None = None
    """None if the scan's way to the template is not known."""

    @property
    def sidecar(self) -> dict[str, Any]:
        """As the sidecar of a lesion mask lists it."""
        of_scan = {"VolumeMl": self.volume_ml, "CentreMm": list(self.centre_mm), "Peak": self.peak, "Mean": self.mean}
        if self.place is None:
            return of_scan
        return of_scan | {
            "CentreMNI152Mm": list(self.place.centre_mni152_mm),
            "Hemisphere": self.place.hemisphere,
            "Region": self.place.region,
            "RegionShare": self.place.region_share,
            "Tissue": self.place.tissue,
            "Location": self.place.location,
        }


def measure_findings(
    mask: np.ndarray, anomaly: np.ndarray, geometry: Geometry, to_template: np.ndarray | None
) -> list[Finding]:
    """The findings of a lesion mask, largest first.

    Parameters
    ----------
    mask, anomaly
        ``(X, Y, Z)`` on the scan's own grid: the mask, above 0, and the map.
    geometry
        That grid.
    to_template
        ``(4, 4)``, from the scan's world to MNI152 space, in mm; None if it is not known.
    """
    labels, sizes = components(mask > 0)
    inside = labels > 0
    points = np.argwhere(inside) @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]
    values = anomaly[inside].astype(np.float64)
    standard = None if to_template is None else points @ to_template[:3, :3].T + to_template[:3, 3]
    places = None if standard is None else region_atlas().at(standard)
    by_label = np.argsort(labels[inside], kind="stable")
    voxels = np.split(by_label, np.cumsum(sizes)[:-1])
    found = []
    for label in np.argsort(-sizes, kind="stable"):
        own = voxels[label]
        found.append(
            Finding(
                volume_ml=round(float(sizes[label] * geometry.voxel_volume_ml), 4),
                centre_mm=_centre(points[own]),
                peak=round(float(values[own].max()), 4),
                mean=round(float(values[own].mean()), 4),
                place=None if standard is None or places is None else _place(standard[own], places.of(own)),
            )
        )
    return found


def _place(points_mm: np.ndarray, places: Places) -> Place:
    """The place of a finding, from its voxels in MNI152 space ``(N, 3)`` and what the atlas says of them."""
    count = len(points_mm)
    of_region = np.bincount(places.region, minlength=max(REGIONS) + 1)
    of_tissue = np.bincount(places.tissue, minlength=max(TISSUES) + 1)
    region, tissue = int(of_region.argmax()), int(of_tissue.argmax())
    left, right = (np.count_nonzero(side) / count for side in (points_mm[:, 0] < 0, points_mm[:, 0] > 0))
    return Place(
        centre_mni152_mm=_centre(points_mm),
        hemisphere="left" if left >= ONE_SIDED else "right" if right >= ONE_SIDED else "midline",
        region=REGIONS[region],
        region_share=round(float(of_region[region] / count), 3),
        tissue=TISSUES[tissue if 2 * of_tissue[tissue] > count else BORDER],
        location=_location(region, of_region, places),
    )


def _location(region: int, of_region: np.ndarray, places: Places) -> str | None:
    infratentorial, deep_grey = (
        2 * of_region[list(those)].sum() > of_region.sum() for those in (INFRATENTORIAL, DEEP_GREY)
    )
    if infratentorial:
        return "infratentorial"
    if places.to_ventricle_mm.min() <= ABUTS_MM:
        return "periventricular"
    if places.to_cortex_mm.min() <= ABUTS_MM:
        return "juxtacortical-cortical"
    if region == THIRD_VENTRICLE:
        return None
    return "deep grey matter" if deep_grey else "deep white matter"


def _centre(points_mm: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 1) for value in points_mm.mean(axis=0))
    return x, y, z
