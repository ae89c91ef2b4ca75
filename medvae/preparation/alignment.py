"""How well a brain lies on the template, and whether it can be believed to lie there.

No single number decides: the outline, the interior, the size and the angles are judged together, and so is whether the
brain fits better than when it is turned back to front, upside down or both.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from medvae.errors import MedvaeError
from medvae.imaging.grid import DEFAULT_GRID, Grid
from medvae.preparation.standard_brain import read_template

_BINS = 32
_TURNS = {"z": np.s_[::-1, ::-1], "y": np.s_[::-1, :, ::-1], "x": np.s_[:, ::-1, ::-1]}
"""By 180° about each axis of the standard grid."""


@dataclass(frozen=True)
class RegistrationQuality:
    """How well a brain is aligned with the template.

    Parameters
    ----------
    dice
        Overlap of the scan's brain mask, moved to the standard grid, with the template's.
    mutual_information
        Of scan and template in nats, inside both brain masks: 32 × 32 bins between the 1st and 99th percentiles.
    scales
        Length in the scan, in mm, of 1 mm along x, y and z of the standard space.
    shear
        Largest cosine between two of these axes in the scan; 0 if they stay at right angles.
    turned_information
        The largest mutual information of the same brain turned by 180° about one of the three axes.
    """

    dice: float
    mutual_information: float
    scales: tuple[float, float, float]
    shear: float
    turned_information: float = 0.0

    @property
    def direction(self) -> float:
        """How much better the brain fits than turned: 1.9 and more where it lies right, 0.5 to 1.3 where the best place
        of a brain that is back to front or upside down was found (tumours, T1 with blur and bias field)."""
        return self.mutual_information / max(self.turned_information, 1e-6)


@dataclass(frozen=True)
class _Limits:
    """What the numbers of a registration must be."""

    dice: float
    information: float
    scales: tuple[float, float]
    shear: float
    direction: float


USUAL = _Limits(dice=0.88, information=0.08, scales=(0.7, 1.4), shear=0.15, direction=1.5)
"""Of a registration that needs no word. The smallest Dice of 120 IXI heads is 0.95; adults' brains have these sizes."""
POSSIBLE = _Limits(dice=0.8, information=0.04, scales=(0.6, 1.6), shear=0.2, direction=1.5)
"""Of one that is done and announced, if the others are usual: large resections, blurred scans with a strong bias field
(right at 0.07 nats), children."""


def measure_quality(
    array: np.ndarray, mask: np.ndarray, transform: np.ndarray, grid: Grid = DEFAULT_GRID
) -> RegistrationQuality:
    """How well a brain on a standard grid is aligned with the grid's template.

    Dice measures the outline only, mutual information the interior. Aligned T1 brains have 0.20–0.25 nats, raw ones
    with their bias field 0.10–0.21 (120 IXI heads), T2 and FLAIR 0.11–0.13; brains that lie upside down or back to
    front reach a Dice of up to 0.94, but less than 0.07 nats.

    Parameters
    ----------
    array, mask
        ``(X, Y, Z)`` on the standard grid, float and bool; of any contrast and scale.
    transform
        ``(4, 4)``, as in `medvae.preparation.registration.Registration`.
    grid
        The standard grid of both; the default grid if not given.
    """
    template, standard = read_template(grid)
    both = int(np.count_nonzero(mask)) + int(np.count_nonzero(standard))
    dice = 2 * int(np.count_nonzero(mask & standard)) / max(1, both)
    axes = transform[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    x, y, z = (float(n) for n in lengths)
    cosines = np.abs(axes.T @ axes / np.outer(lengths, lengths) - np.eye(3))

    def information(brain: np.ndarray, inside: np.ndarray) -> float:
        return _mutual_information(brain[inside & standard], template[inside & standard])

    return RegistrationQuality(
        dice=dice,
        mutual_information=information(array, mask),
        scales=(x, y, z),
        shear=float(cosines.max()),
        turned_information=max(information(array[turn], mask[turn]) for turn in _TURNS.values()),
    )


class Misplaced(MedvaeError):
    """A registration that cannot be right."""

    def __init__(self, message: str, problems: str) -> None:
        super().__init__(message)
        self.problems = problems
        """What is wrong with it, with numbers."""


def refuse_failure(found: RegistrationQuality, transform: np.ndarray, source: str) -> None:
    """Refuse a registration that cannot be right, with its numbers.

    Raises
    ------
    Misplaced
        If a number is impossible (see `POSSIBLE`), if more than one is unusual (see `USUAL`), or if left and right are
        mirrored.
    """
    unusual = _outside(found, USUAL)
    problems = list(unusual.values()) if len(unusual) > 1 or _outside(found, POSSIBLE) else []
    if np.linalg.det(transform[:3, :3]) <= 0:
        problems.append("left and right are mirrored")
    if problems:
        told = "; ".join(problems)
        raise Misplaced(
            f"{source}: the registration to the MNI152 template failed: {told}. Check in a viewer "
            "that the brain mask covers the brain and nothing else, that the scan is T1-weighted and shows a whole "
            "adult brain, and that its orientation labels (left, right, front, back) are right. Correct a strong bias "
            "field with preparation.bias_field=n4.",
            told,
        )


def doubt(found: RegistrationQuality, explained: Collection[str] = ()) -> str | None:
    """The warning about a place that was accepted with an unusual number: one sentence, or None.

    ``explained`` names numbers whose cause is known, and said: "dice", "information", "scales".
    """
    unusual = _outside(found, USUAL)
    told = [problem for number, problem in unusual.items() if number not in explained]
    if not told:
        return None
    return (
        f"its place on the MNI152 template is doubtful: {'; '.join(told)}. Everything else is as usual (Dice "
        f"{found.dice:.2f}, {found.mutual_information:.3f} nats, {found.direction:.1f} times as much as turned round); "
        f"look at the overlay before trusting it."
    )


def _outside(found: RegistrationQuality, limits: _Limits) -> dict[str, str]:
    """What lies beyond the limits, in words with numbers, by the name of the number."""
    problems = {}
    if found.dice < limits.dice:
        problems["dice"] = (
            f"the moved brain mask overlaps the template's with Dice {found.dice:.2f} (at least {limits.dice})"
        )
    if found.mutual_information < limits.information:
        problems["information"] = (
            f"the mutual information with the template is {found.mutual_information:.3f} nats (at least "
            f"{limits.information})"
        )
    if found.direction < limits.direction:
        problems["direction"] = (
            f"the brain fits only {found.direction:.1f} times as well as when it is turned round (at least "
            f"{limits.direction})"
        )
    low, high = limits.scales
    if not all(low <= scale <= high for scale in found.scales):
        numbers = ", ".join(f"{scale:.2f}" for scale in found.scales)
        problems["scales"] = f"the scales along x, y, z are {numbers} ({low} to {high})"
    if found.shear > limits.shear:
        problems["shear"] = f"the axes are sheared by {found.shear:.2f} (at most {limits.shear})"
    return problems


def _mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual information in nats of two equally long samples, from their joint histogram."""
    if not first.size:
        return 0.0
    bins = []
    for values in (first, second):
        low, high = np.percentile(values, [1, 99])
        share = np.clip((values - low) / max(float(high - low), 1e-12), 0, 1)
        bins.append(np.minimum((share * _BINS).astype(np.int64), _BINS - 1))
    joint = np.bincount(bins[0] * _BINS + bins[1], minlength=_BINS**2).reshape(_BINS, _BINS) / first.size
    apart = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / apart[seen])).sum())
