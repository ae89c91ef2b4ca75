"""Families of benchmark lesions on T1: one lesion inserted into a healthy scan, with exact truth.

They ask what a method finds besides dark spots in white matter. They imitate how lesions look, not how they grow, and
their intensities were chosen, not measured on patients: each range says why. For comparison, in the 12 healthy
validation and test scans of the included cohort grey matter lies at 0.76 of the white matter's median (0.75–0.77),
fluid at 0.38 (0.33–0.40), and the brightest 1 % of the brain begins at 1.13 (1.12–1.15).

These lesions share nothing with those of `medvae.lesions.synthesis`, from which detectors learn: other forms, other
intensities, other code. Keep it so; a method must not be measured on what it was taught.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.imaging.volume import Volume
from medvae.lesions.displacement import mass_effect
from medvae.lesions.geometry import Scene, highest, lobes, noise, radius_mm, signed_mm, soft, wedge
from medvae.lesions.insertion import Inserted, Lesion

Family = Literal["ms", "tumour", "bright", "texture", "mass_effect", "stroke"]
"""``ms`` is `medvae.lesions.insertion`; the others are made here."""
FAMILIES: tuple[Family, ...] = get_args(Family)
Size = Literal["small", "medium", "large"]
SIZES_ML: dict[Size, tuple[float, float]] = {"small": (1.0, 4.0), "medium": (4.0, 15.0), "large": (15.0, 60.0)}
"""Volumes of a lesion's truth in ml, log-uniform within a bin: balls of 6–10, 10–15 and 15–24 mm radius."""
_TRIES = 60

NECROSIS = (0.42, 0.62)
"""Core of a tumour over white matter: between fluid (0.38) and grey matter (0.76), as necrosis holds both."""
RIM = (0.76, 1.05)
"""Its rim: from grey to white matter, as solid tumour without contrast agent."""
OEDEMA = (0.15, 0.32)
"""Share of its intensity that white matter loses to oedema where it is fullest: down to that of grey matter or less."""
BRIGHT = (1.15, 1.40)
"""Over white matter: above the brightest 1 % of healthy brain (1.13), as blood, fat or contrast agent."""
MOTTLE = (0.06, 0.14)
"""Relative SD of the added texture: about that of healthy white matter (0.08)."""
INFARCT = (0.12, 0.40)
"""Share of its intensity that tissue loses: from white to nearly grey matter at least, to nearly fluid at most."""

Maker = Callable[[Scene, float, np.random.Generator], tuple[np.ndarray, np.ndarray] | None]


def insert_family(
    volume: Volume,
    mask: np.ndarray,
    family: Family,
    size: Size,
    *,
    rng: np.random.Generator | int,
    scene: Scene | None = None,
) -> Inserted:
    """Insert one lesion of a family into a healthy scan.

    Parameters
    ----------
    volume
        A healthy, skull-stripped T1; any grid; 0 means no signal.
    mask
        Brain mask, ``(X, Y, Z)`` bool.
    family
        Any but ``ms``.
    size
        Bin of the volume of the truth, see `SIZES_ML`.
    rng
        A generator or a seed; the same seed gives the same lesion.
    scene
        The scan's tissues, if they are already known.

    Returns
    -------
    Inserted
        The contrast of its lesion is the median over the truth of the intensity after over that before.

    Raises
    ------
    MedvaeError
        If intensities are negative, or no place was found.
    """
    rng, where = np.random.default_rng(rng), str(volume.path or "scan")
    mask = np.asarray(mask, dtype=bool)
    if np.mean(volume.array[mask] < 0) > 0.01:
        raise MedvaeError(
            f"{where}: holds negative intensities. 0 must mean no signal: insert lesions before intensities are "
            f"standardised."
        )
    scene = scene or Scene.of(volume, mask)
    low, high = SIZES_ML[size]
    for _ in range(_TRIES if scene.white.any() else 0):
        made = MAKERS[family](scene, float(np.exp(rng.uniform(*np.log(SIZES_ML[size])))), rng)
        if made is None:
            continue
        array, truth = made
        volume_ml = float(truth.sum() * scene.geometry.voxel_volume_ml)
        if not low <= volume_ml <= high:
            continue
        array = np.where(mask, np.maximum(array, 0.0), scene.array).astype(np.float32)
        before = np.maximum(scene.array[truth], 1e-6)
        x, y, z = (float(mm) for mm in scene.geometry.affine[:3] @ [*np.argwhere(truth).mean(axis=0), 1.0])
        lesion = Lesion((x, y, z), volume_ml, float(np.median(array[truth] / before)))
        return Inserted(array, truth, (lesion,))
    raise MedvaeError(
        f"{where}: found no room for a lesion of the family {family}, {size} ({low:g}–{high:g} ml). Check the brain "
        f"mask and that the scan is a bias-corrected T1."
    )


def tumour(scene: Scene, volume_ml: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """A dark core in a rim, and oedema that runs out along the white matter; truth is all of it."""
    core = lobes(_deep_white(scene, rng), scene.mask, rng.uniform(0.25, 0.5) * volume_ml, scene, rng)
    if core is None:
        return None
    radius = radius_mm(volume_ml)
    inward = signed_mm(core, 2.5 * radius, scene)
    spread = inward + 0.35 * radius * noise(inward.shape, 0.4 * radius, scene, rng)
    near = scene.white & (inward > -2.5 * radius)
    truth = highest(np.where(core, np.inf, spread), core | near, volume_ml, scene)
    if truth is None or not (core <= truth).all():
        return None
    truth = ndimage.binary_fill_holes(truth) & scene.mask
    edge = rng.uniform(2.5, 4.0)
    wet = soft(truth, edge, scene) * np.maximum(ndimage.gaussian_filter(scene.white.astype(np.float32), 0.7), core)
    array = scene.array * (1 - rng.uniform(*OEDEMA) * wet)
    body = soft(core, 0.8, scene)
    array += body * (_filled(rng.uniform(*RIM), scene, rng) - array)
    thickness = min(rng.uniform(2.0, 4.5), 0.35 * radius_mm(core.sum() * scene.geometry.voxel_volume_ml))
    inner = soft(inward > thickness, 1.0, scene) * core
    return array + inner * (_filled(rng.uniform(*NECROSIS), scene, rng) - array), truth


def bright(scene: Scene, volume_ml: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """Brighter than any healthy tissue, anywhere in the brain, with a sharp edge."""
    truth = lobes(_anywhere(scene, rng), scene.mask, volume_ml, scene, rng)
    if truth is None:
        return None
    weight = 0.85 * soft(truth, rng.uniform(0.6, 1.5), scene)
    return scene.array + weight * (_filled(rng.uniform(*BRIGHT), scene, rng) - scene.array), truth


def texture(scene: Scene, volume_ml: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """Mottled tissue of unchanged mean: its own detail is weakened, and detail of 1.5 to 3 mm put in its place."""
    truth = lobes(_deep_white(scene, rng), scene.tissue, volume_ml, scene, rng)
    if truth is None:
        return None
    weight = soft(truth, 1.0, scene) * scene.tissue
    sigma = 3.0 / np.array(scene.geometry.spacing_mm)
    inside = ndimage.gaussian_filter(scene.tissue.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(scene.array * scene.tissue, sigma) / np.maximum(inside, 1e-3)
    mottle = rng.uniform(*MOTTLE) * np.clip(noise(scene.mask.shape, rng.uniform(1.5, 3.0), scene, rng), -2, 2)
    change = weight * (rng.uniform(-0.8, -0.2) * (scene.array - smooth) + mottle * smooth)
    change -= weight * (change[truth].sum() / weight[truth].sum())
    return scene.array + change, truth


def stroke(scene: Scene, volume_ml: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """A wedge of darker tissue that reaches through the cortex, with soft edges and less contrast of grey and white."""
    truth = wedge(volume_ml, scene, rng)
    if truth is None:
        return None
    weight = soft(truth, rng.uniform(1.0, 2.5), scene) * scene.tissue
    mean = float(scene.array[truth].mean())
    alike = scene.array + rng.uniform(0.2, 0.6) * weight * (mean - scene.array)
    uneven = 1 + 0.2 * noise(scene.mask.shape, 4.0, scene, rng)
    return alike * (1 - rng.uniform(*INFARCT) * weight * np.clip(uneven, 0.4, 1.6)), truth


MAKERS: dict[str, Maker] = {
    "tumour": tumour, "bright": bright, "texture": texture, "mass_effect": mass_effect, "stroke": stroke,
}  # fmt: skip
"""From a scene, a volume of the truth in ml and a generator to the changed scan and the truth; None: try again."""


def _filled(ratio: float, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Intensities of something solid: a level over that of the white matter, uneven by 4 % over 3 mm and grained."""
    shape = scene.mask.shape
    return scene.level * ratio * (1 + 0.04 * noise(shape, 3.0, scene, rng) + 0.02 * noise(shape, 0.4, scene, rng))


def _deep_white(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    places = np.argwhere(scene.white & (scene.depth > 8.0))
    return places[rng.integers(len(places))]


def _anywhere(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    places = np.argwhere(scene.tissue & (scene.depth > 4.0))
    return places[rng.integers(len(places))]
