"""A healthy scan made into a patient: what is drawn, and in which order it is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from medvae.config import LesionConfig
from medvae.config.patients import PatientConfig
from medvae.lesions.patients.deformation import Swelling, deform, ventricles
from medvae.lesions.patients.hosts import strip_badly, widen_fluid
from medvae.lesions.patients.infarct import Infarct
from medvae.lesions.patients.outlines import Outlines
from medvae.lesions.patients.scene import Scene
from medvae.lesions.patients.spots import Spots
from medvae.lesions.patients.tumour import Tumour
from medvae.lesions.synthesis import insert_lesions

SATELLITES = 0.15
"""Fraction of tumours and infarcts that are not alone."""


class Disease(Protocol):
    """Lesions of one kind, drawn before the brain is deformed and put in afterwards."""

    @property
    def swellings(self) -> Sequence[Swelling]:
        """How tissue around them moves."""
        ...

    def insert(self, scene: Scene) -> None:
        """Put them into a scan and its truth."""
        ...


def make_patient(
    image: Tensor,
    mask: Tensor,
    options: PatientConfig,
    lesions: LesionConfig,
    seed: Sequence[int],
    voxel_mm: float,
    *,
    corner: Sequence[int] = (0, 0, 0),
    outlines: Outlines | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Make a patient of a healthy scan.

    Parameters
    ----------
    image, mask
        ``(C, X, Y, Z)`` float32 in normalised intensity, of ``options.sequence`` in the first channel, and
        ``(X, Y, Z)`` bool.
    options
        Which lesions, and what else differs.
    lesions
        The foreign lesions, see `medvae.lesions.synthesis`.
    seed
        Of all random numbers.
    voxel_mm
        Edge of a voxel.
    corner
        Where the first voxel lies on the standard grid.
    outlines
        Of real infarcts.

    Returns
    -------
    image, mask, truth
        As the arguments, and ``(X, Y, Z)`` bool: the lesions. The arguments are left as they are.
    """
    scene = Scene.of(image, mask, seed, voxel_mm, corner=corner, outlines=outlines, sequence=options.sequence)
    kind = _kind(scene, options)
    diseases = _diseases(kind, scene, options)
    moved = ventricles(scene) if scene.chance(options.ventricles) else []
    deform(scene, options, [*moved, *(swelling for disease in diseases for swelling in disease.swellings)])
    if scene.chance(options.atrophy):
        widen_fluid(scene)
    for disease in diseases:
        disease.insert(scene)
    if kind == "foreign":
        number = int(scene.rng.integers(2**31))
        changed, truth = insert_lesions(scene.image[None], scene.mask[None, None], lesions, (*seed, number), voxel_mm)
        scene.image, scene.truth = changed[0], truth[0, 0]
    if scene.chance(options.stripping):
        strip_badly(scene)
    return scene.image, scene.mask, scene.truth & scene.mask


def _kind(scene: Scene, options: PatientConfig) -> str:
    names = ("tumour", "infarct", "spots", "foreign")
    drawn = scene.rng.random()
    for name in names:
        drawn -= getattr(options, name)
        if drawn < 0:
            return name
    return "healthy"


def _diseases(kind: str, scene: Scene, options: PatientConfig) -> list[Disease]:
    if kind == "spots":
        return [Spots.draw(scene, options)]
    if kind not in ("tumour", "infarct"):
        return []
    draw = Tumour.draw if kind == "tumour" else Infarct.draw
    count = 1 + (int(scene.rng.integers(1, 4)) if scene.chance(SATELLITES) else 0)
    return [draw(scene, options) for _ in range(count)]
