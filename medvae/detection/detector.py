"""A detector that users share and load: network, score, calibration and resolved config in one folder.

``detector/config.yaml``               the resolved config
``detector/calibration.json``          operating points and their provenance
``detector/network.safetensors``       weights, unless the method needs no network
``detector/healthy.safetensors``       basis of guarantees and p-values
``detector/atlas.safetensors``         healthy mean and SD of intensity at each voxel, if needed
``detector/bias_field.safetensors``    reference mean and SD for estimating the residual bias field, if it is corrected
``detector/normative.safetensors``     mean and SD of the score at each voxel, if the config asks for it
``detector/intensity_scale.json``      the intensity scale of the training scans, if the config asks for it
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors

from medvae.config import Config
from medvae.config.methods import SCORES
from medvae.detection.base import Calibrated, read_calibrated
from medvae.detection.operating_points import rank_point
from medvae.detection.stored import CALIBRATION
from medvae.devices import AUTO, find_device
from medvae.errors import MedvaeError
from medvae.files import write_bytes
from medvae.modality import UNKNOWN
from medvae.networks.build import load_network
from medvae.networks.interface import Network
from medvae.normative.atlas import Atlas, FittedScan, fit_atlas
from medvae.normative.bias_field import BiasFieldReference
from medvae.normative.inputs import Inputs, NetworkInputs
from medvae.normative.statistics import NormativeMap, fit_normative
from medvae.preparation.landmarks import LandmarkScale
from medvae.preparation.prepared import PreparedVolume
from medvae.scoring.intensity import rank_score
from medvae.scoring.volume import raw_score, score_parts, score_volume, smooth_score
from medvae.tensors import read_arrays

FOLDER = "detector"
PRETRAINED = Path(__file__).parents[1] / "pretrained"
ATLAS = "atlas.safetensors"
BIAS_FIELD, OLDER_BIAS_FIELD = "bias_field.safetensors", "shading.safetensors"


@dataclass(frozen=True, kw_only=True)
class Detector(Calibrated):
    """Finds anomalies in a prepared volume.

    Made by `Detector.calibrate` from a trained network and healthy scans, by `Detector.of_ranks` from neither, or by
    `Detector.load` from a folder.
    """

    network: Network | None
    normative: NormativeMap | None = None
    atlas: Atlas | None = None
    """Atlas of the healthy training scans, if the network receives it as input."""
    bias_field: BiasFieldReference | None = None
    """Mean and SD of the healthy training scans, if the residual bias field is estimated against them."""
    part_scales: tuple[float, ...] = ()
    """Healthy mean of each part of a combined score."""

    @classmethod
    def calibrate(
        cls,
        config: Config,
        network: Network | None,
        training: Sequence[PreparedVolume],
        validation: Sequence[PreparedVolume],
        *,
        scale: LandmarkScale | None = None,
        subjects: Sequence[str] | None = None,
        sites: Sequence[str] | None = None,
        compact: bool = False,
        atlas: Atlas | None = None,
        bias_field: BiasFieldReference | None = None,
        device: str = AUTO,
        modalities: Sequence[str] | None = None,
    ) -> Detector:
        """Fit the normative map on healthy training scans and the operating points on healthy validation scans.

        ``scale`` is the intensity scale of both sets. ``subjects`` names the subject of each validation scan;
        without it each scan is a subject of its own. ``sites`` says where each was made: thresholds are those of the
        worst site. ``compact`` first rounds network and normative map to half
        precision, which halves the files that `save` writes. ``atlas`` and ``bias_field`` are those that the network
        was shown, if already made.
        The network is moved to the ``device``, as in `medvae.devices.find_device`. ``modalities`` are the names of
        the sequences, in channel order.

        Raises
        ------
        MedvaeError
            If there are too few scans of either.
        """
        channels = (training or validation)[0].image.shape[0] if (training or validation) else 1
        counts = {"training": len(training), "validation": len(validation)}
        if network is None:
            bias_field = None
        else:
            network = (deepcopy(network).half().float() if compact else network).to(find_device(device))
            inputs = NetworkInputs.fit(config.network_options, channels, training, atlas=atlas, bias_field=bias_field)
            atlas, bias_field = inputs.atlas, inputs.bias_field
        if SCORES[config.score.kind].needs_atlas:
            atlas = atlas or fit_atlas(training, deformable=True)
        detector = cls(
            config=config, network=network, modalities=tuple(modalities or (UNKNOWN,) * channels),
            calibrated_on=counts, scale=scale, atlas=atlas, bias_field=bias_field,
        )  # fmt: skip
        if SCORES[config.score.kind].combines:
            detector = replace(detector, part_scales=detector._healthy_means(training))
        if config.score.normative:
            scores = [detector._signed_score(volume) for volume in training]
            masks = [volume.mask for volume in training]
            normative = fit_normative(scores, masks, config.calibration.normative_shrinkage)
            if compact:
                normative = NormativeMap(*(_rounded(array) for array in (normative.mean, normative.sd)))
            detector = replace(detector, normative=normative)
        return detector._with_points(validation, [detector.score(volume) for volume in validation], subjects, sites)

    @classmethod
    def of_ranks(cls, config: Config, modalities: Sequence[str]) -> Detector:
        """A detector that learns nothing: its operating points are ``config.calibration.ranks``.

        Raises
        ------
        MedvaeError
            If the config has no ranks.
        """
        if not config.calibration.ranks:
            raise MedvaeError(f'"{config.name}" has no calibration.ranks, and nothing else needs no healthy scan.')
        return cls(
            config=config, network=None, modalities=tuple(modalities), calibrated_on={"training": 0, "validation": 0},
            points=tuple(map(rank_point, config.calibration.ranks)), healthy_median=rank_score(0.5),
        )  # fmt: skip

    def score(self, volume: PreparedVolume, fitted: FittedScan | None = None) -> np.ndarray:
        """The calibrated score on the standard grid, ``(X, Y, Z)`` float32: higher is more anomalous, 0 outside.

        ``fitted`` is the scan fitted to the detector's atlas, if already computed.

        Raises
        ------
        MedvaeError
            If the scan was prepared on another grid than the detector's.
        """
        if volume.grid != self.config.grid:
            raise MedvaeError(
                f"{volume.source.path}: was prepared on the grid {volume.grid.name}, and this detector judges scans on "
                f"{self.config.grid.name}. Prepare it with detector.config.preparation."
            )
        score = self._signed_score(volume, fitted)
        if self.normative is not None:
            score = self.normative.z(score, volume.mask)
        score = self._anomalous_side(score)
        if self.config.score.normative_first:
            score = smooth_score(self.config, score, volume.image, volume.mask)
        return np.where(volume.mask, score, 0).astype(np.float32)

    def _anomalous_side(self, score: np.ndarray) -> np.ndarray:
        """The score, high where `polarity` says it is anomalous."""
        if self.config.score.polarity == "dark":
            score = -score
        elif self.config.score.polarity == "both":
            score = np.abs(score)
        return np.maximum(score, 0) if self.config.score.one_sided else score

    def save(self, folder: Path | str) -> Detector:
        """Write the detector to ``folder``, whole or not at all, and return it with its fingerprint.

        Weights and maps are written in half precision where that loses nothing.
        """
        self.write(folder)
        return Detector.load(folder, device=self.device)

    def on(self, device: str) -> Detector:
        """The same detector with its network moved to another device, as in `medvae.devices.find_device`."""
        place = find_device(device)
        return self if self.network is None else replace(self, network=self.network.to(place))

    @property
    def device(self) -> str:
        """Device of the network; ``auto`` without one."""
        return AUTO if self.network is None else str(next(self.network.parameters()).device)

    def write(self, folder: Path | str, *, with_atlas: bool = True) -> None:
        """As `save`, without reading it back; the atlas can be omitted where an ensemble stores it for all members."""
        with self._saved(folder, part_scales=self.part_scales) as temporary:
            if self.network is not None:
                weights = {k: v.cpu().contiguous() for k, v in self.network.state_dict().items()}
                halves = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
                lossless = all(torch.equal(halves[k].to(v.dtype), v) for k, v in weights.items())
                write_bytes(temporary / "network.safetensors", save_tensors(halves if lossless else weights))
            if self.atlas is not None and with_atlas:
                self.atlas.save(temporary / ATLAS)
            if self.bias_field is not None:
                self.bias_field.save(temporary / BIAS_FIELD)
            if self.normative is not None:
                arrays = {"mean": self.normative.mean, "sd": self.normative.sd}
                if all(np.array_equal(_rounded(array), array) for array in arrays.values()):
                    arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
                write_bytes(temporary / "normative.safetensors", save_arrays(arrays))

    @classmethod
    def load(cls, folder: Path | str, *, atlas: Atlas | None = None, device: str = AUTO) -> Detector:
        """Load a detector from its folder, or from the run folder that holds it.

        ``atlas`` is used if the folder has none: members of an ensemble may share one. The network is moved to the
        ``device``, as in `medvae.devices.find_device`.

        Raises
        ------
        MedvaeError
            If there is no such device, no detector (for instance because the run has not finished), or an ensemble.
        """
        place = find_device(device)
        folder = find_detector(folder)
        shared, content = read_calibrated(folder)
        if content.members:
            raise MedvaeError(f"{folder}: holds an ensemble. Load it with medvae.detection.ensemble.load_detector.")
        config, weights = shared["config"], folder / "network.safetensors"
        if config.network is not None and not weights.is_file():
            raise MedvaeError(f"{weights}: is missing; the detector's folder is incomplete. Copy all of its files.")
        if (folder / ATLAS).is_file():
            atlas = Atlas.load(folder / ATLAS, config.grid.shape)
        needed = SCORES[config.score.kind].needs_atlas or (config.network is not None and config.network.atlas)
        if needed and atlas is None:
            raise MedvaeError(f"{folder / ATLAS}: is missing; the detector's folder is incomplete. Copy all its files.")
        network = bias_field = None
        if config.network is not None:
            if config.network.bias_field == "removed":
                older = folder / OLDER_BIAS_FIELD
                bias_field = BiasFieldReference.load(
                    older if older.is_file() else folder / BIAS_FIELD, config.grid.shape
                )
            network = load_network(config, len(shared["modalities"]), weights).to(place)
        normative = None
        if config.score.normative:
            shapes = dict.fromkeys(("mean", "sd"), config.grid.shape)
            arrays = read_arrays(folder / "normative.safetensors", shapes)
            normative = NormativeMap(*(arrays[name].astype(np.float32) for name in ("mean", "sd")))
        scales = tuple(content.part_scales)
        return cls(**shared, network=network, normative=normative, atlas=atlas if needed else None,
                   bias_field=bias_field, part_scales=scales)  # fmt: skip

    @property
    def inputs(self) -> NetworkInputs:
        """The inputs of the network."""
        return NetworkInputs(Inputs.of(self.config.network_options, self.channels), self.atlas, self.bias_field)

    def shown(self, volume: PreparedVolume, fitted: FittedScan | None = None) -> np.ndarray:
        """The input maps of a scan, ``(C, X, Y, Z)`` float32: those of the network, or z scores.

        ``fitted`` as in `score`.
        """
        if self.network is not None:
            if fitted is None:
                return self.inputs.shown(volume).image
            return self.inputs.stack(fitted)
        if self.atlas is not None:
            return self.atlas.z_scores(fitted or self.atlas.fit(volume.image, volume.mask))
        return volume.image

    def _signed_score(self, volume: PreparedVolume, fitted: FittedScan | None = None) -> np.ndarray:
        """The score as the normative map takes it: smoothed, unless that comes last."""
        shown = self.shown(volume, fitted)
        if self.config.score.normative_first:
            return raw_score(self.config, self.network, shown, volume.mask, self.part_scales)
        return score_volume(self.config, self.network, shown, volume.mask, self.part_scales, self.channels)

    def _healthy_means(self, training: Sequence[PreparedVolume]) -> tuple[float, ...]:
        """Mean of each part of a combined score over the brains of healthy training scans."""
        if not training:
            raise MedvaeError(
                "A combined score is scaled by healthy training scans, and there is none in the manifest."
            )
        sums, voxels = np.zeros(len(self.config.score.parts)), 0
        for volume in training:
            parts = score_parts(self.config, self.network, self.shown(volume), volume.mask)
            sums += [part[volume.mask].sum(dtype=np.float64) for part in parts]
            voxels += int(volume.mask.sum())
        return tuple(float(mean) for mean in np.maximum(sums / voxels, 1e-12))


def pretrained() -> list[str]:
    """Names of the detectors that come with medvae."""
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{CALIBRATION}"))


def find_detector(folder: Path | str) -> Path:
    """The folder of a detector: ``folder`` itself, ``folder/detector`` of a run, or one of `pretrained` by its name.

    A member of an ensemble is named by its folder, as in ``t1-2mm/members/patients_small_t1``.

    A folder on disk takes precedence over a detector that comes with medvae.

    Raises
    ------
    MedvaeError
        If there is none, for instance because the run has not finished.
    """
    folder = Path(folder)
    if not folder.exists() and folder.parts and folder.parts[0] in pretrained():
        folder = PRETRAINED / folder
    if (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    if not (folder / CALIBRATION).is_file():
        started = (folder / "config.yaml").exists()
        hint = "its training has not finished: run medvae train again with --resume"
        if not started:
            hint = f"check the path; with medvae comes {', '.join(pretrained()) or 'none'}"
        raise MedvaeError(f"{folder}: holds no detector ({hint}).")
    return folder


def _rounded(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16).astype(np.float32)
