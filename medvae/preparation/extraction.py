"""Skull stripping of a whole head with third-party networks: deepbet in this process, HD-BET as a program.

Neither is a dependency of medvae. deepbet (Fisch et al. 2023, arXiv 2308.07003) ships with its weights and is made for
T1 scans; HD-BET (Isensee et al. 2019, doi:10.1002/hbm.24750) also takes other contrasts and heads with tumours, and
downloads its weights when it is run for the first time.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from medvae.config import BrainMethod
from medvae.errors import MedvaeError
from medvae.imaging.readers import require_same_grid
from medvae.imaging.volume import Volume, read_volume, write_volume
from medvae.preparation.mask import LARGEST_BRAIN_ML, HeadFound, mask_from_background

SMALLEST_BRAIN_ML = 500.0
"""A smaller brain of an adult means that the extraction failed; the smallest of 120 healthy adults has 1,080 ml."""

_INSTALL_DEEPBET = "pip install deepbet"
_GIVE_MASK = 'Or give the brain mask in the manifest ("mask"), or a skull-stripped scan with constant background.'


def find_brain(volume: Volume, method: BrainMethod) -> tuple[np.ndarray, str]:
    """The brain of a scan that has no mask, and where it was taken from.

    Parameters
    ----------
    volume
        A skull-stripped scan, or a whole head.
    method
        As in :class:`medvae.config.PreparationConfig`.

    Returns
    -------
    mask, origin
        ``(X, Y, Z)`` bool, and "background", "deepbet" or "hdbet".

    Raises
    ------
    MedvaeError
        If the scan is a head and the tool for it is missing, or what was found is no brain.
    """
    if method in ("auto", "background"):
        try:
            return mask_from_background(volume.array, volume.geometry, source=str(volume.path)), "background"
        except HeadFound as head:
            if _is_ct_head(volume.array):
                raise HeadFound(
                    f"{volume.path}: its values are those of a CT of a head (air, soft tissue and bone in Hounsfield "
                    f"units); an MR image was expected. Check that it is the right file. {_GIVE_MASK}"
                ) from head
            if method == "background" or not _has_deepbet():
                raise  # its message tells how to install deepbet
        method = "deepbet"
    return _checked(_deepbet(volume) if method == "deepbet" else _hdbet(volume), volume, method), method


def _is_ct_head(array: np.ndarray) -> bool:
    """Whether there is much air near -1000, soft tissue between -150 and 150, some bone above 500, and little else."""
    air, soft, bone = ((array < -850), (np.abs(array) < 150), (array > 500))
    shares = [float(part.mean()) for part in (air, soft, bone)]
    return shares[0] > 0.05 and shares[1] > 0.05 and shares[2] > 0.005 and sum(shares) > 0.8


def _has_deepbet() -> bool:
    return importlib.util.find_spec("deepbet") is not None


def _deepbet(volume: Volume) -> np.ndarray:
    if not _has_deepbet():
        raise MedvaeError(f"{volume.path}: preparation.brain=deepbet needs deepbet: {_INSTALL_DEEPBET}. {_GIVE_MASK}")
    import nibabel as nib
    import torch
    from deepbet import BrainExtraction

    try:
        network = BrainExtraction(no_gpu=not torch.cuda.is_available())
        _, mask, _ = network.run(nib.Nifti1Image(volume.array, volume.geometry.affine))
    except (AssertionError, ValueError, RuntimeError) as error:  # an image without a head, or too little memory
        raise MedvaeError(f"{volume.path}: deepbet found no brain ({error}). Look at the scan. {_GIVE_MASK}") from error
    return np.asarray(mask.dataobj) > 0


def _hdbet(volume: Volume) -> np.ndarray:
    program = shutil.which("hd-bet")
    if program is None:
        raise MedvaeError(
            f"{volume.path}: preparation.brain=hdbet needs the program hd-bet, which is not on the PATH. Install "
            f"HD-BET 2 (pip install hd-bet). {_GIVE_MASK}"
        )
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(prefix="medvae-hd-bet-") as folder:
        head, brain = Path(folder, "head.nii.gz"), Path(folder, "brain.nii.gz")
        write_volume(head, volume.array, volume)
        command = [program, "-i", str(head), "-o", str(brain), "-device", device, "--save_bet_mask", "--no_bet_image"]
        if device == "cpu":
            command.append("--disable_tta")
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        mask = brain.with_name("brain_bet.nii.gz")
        if done.returncode or not mask.is_file():
            said = " ".join((done.stderr.strip() or done.stdout.strip()).split()[-40:]) or "it said nothing"
            raise MedvaeError(
                f"{volume.path}: hd-bet made no brain mask (exit code {done.returncode}): {said}. HD-BET 2 is "
                f"expected. {_GIVE_MASK}"
            )
        return read_volume(mask).array > 0.5


def _checked(mask: np.ndarray, volume: Volume, method: str) -> np.ndarray:
    if mask.shape != volume.geometry.shape:
        raise MedvaeError(f"{volume.path}: the mask of {method} has shape {mask.shape}, not the scan's. {_GIVE_MASK}")
    size_ml = np.count_nonzero(mask) * volume.geometry.voxel_volume_ml
    if not SMALLEST_BRAIN_ML <= size_ml <= LARGEST_BRAIN_ML:
        raise MedvaeError(
            f"{volume.path}: what {method} takes for the brain measures {size_ml:,.0f} ml; an adult's brain of "
            f"{SMALLEST_BRAIN_ML:,.0f} to {LARGEST_BRAIN_ML:,.0f} ml was expected. Look at the scan. {_GIVE_MASK}"
        )
    return mask


def brain_mask(volume: Volume, mask: Path | str | None, method: BrainMethod = "auto") -> np.ndarray:
    """The brain of a scan on its own grid, ``(X, Y, Z)`` bool: the given mask, or what ``method`` finds.

    Raises
    ------
    MedvaeError
        If the mask is empty or lies on another grid, or no brain can be found.
    """
    return given_or_found(volume, mask, method)[0]


def given_or_found(volume: Volume, mask: Volume | Path | str | None, method: BrainMethod) -> tuple[np.ndarray, str]:
    """As `brain_mask`, with where the mask came from: "given", or as `find_brain` says."""
    if mask is None:
        return find_brain(volume, method)
    given = mask if isinstance(mask, Volume) else read_volume(mask)
    require_same_grid(given, volume.placement, f"its image {volume.path}")
    if not given.array.any():
        raise MedvaeError(f"{given.path}: the brain mask is empty. Remove it from the manifest, or make it again.")
    return given.array > 0.5, "given"
