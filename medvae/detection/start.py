"""A training that goes on from a finished detector, with other scans or another objective."""

from __future__ import annotations

from dataclasses import replace

from medvae.config import Config
from medvae.detection.detector import Detector, find_detector
from medvae.detection.ensemble import load_single
from medvae.errors import MedvaeError
from medvae.manifest import Manifest
from medvae.modality import same_modalities
from medvae.training.run_folder import refuse_learned


def starting_detector(config: Config, manifest: Manifest) -> Detector:
    """The detector of ``training.start_from``, on the CPU: its network, atlas and intensity scale.

    With ``training.start_weights_only`` the network alone, and then preparation and sequences may differ.

    Raises
    ------
    MedvaeError
        If there is none, it is an ensemble or has no network, its network, preparation, tiles or modalities are not
        those of the config and the manifest, or it was trained on a validation scan of the manifest.
    """
    source = config.training.start_from
    if source is None:
        raise ValueError(f'"{config.name}" has no training.start_from; one was expected.')
    try:
        detector = load_single(source, device="cpu")
    except MedvaeError as error:
        raise MedvaeError(f"training.start_from: {error}") from None
    where = f"training.start_from: {source}"
    if detector.network is None:
        raise MedvaeError(f"{where}: has no network, so there is no training to go on with.")
    weights_only = config.training.start_weights_only
    first, here = (_must_agree(c, weights_only=weights_only) for c in (detector.config, config))
    differing = [name for name in first if first[name] != here[name]]
    if differing:
        name = differing[0]
        raise MedvaeError(
            f"{where}: was trained with {name}: {first[name]}, and here it is {here[name]}. Weights fit only the same "
            f"network, shown the same: copy its {', '.join(differing)} from {find_detector(source) / 'config.yaml'}."
        )
    if weights_only and len(detector.modalities) != len(manifest.modalities):
        raise MedvaeError(
            f"{where}: sees {len(detector.modalities)} sequences of a scan, and {manifest.path} has "
            f"{len(manifest.modalities)}. Its weights fit only as many."
        )
    if not weights_only and not same_modalities(detector.modalities, manifest.modalities):
        raise MedvaeError(
            f"{where}: was trained on {', '.join(detector.modalities)}, and {manifest.path} has "
            f"{', '.join(manifest.modalities)}. Give both the same modalities, in the same order, or take "
            f"its weights alone (training.start_weights_only)."
        )
    healthy = manifest.of_split("validation", healthy=True)
    refuse_learned([find_detector(source)], {case.id: manifest.images(case) for case in healthy}, manifest.path)
    return replace(detector, scale=None, atlas=None, bias_field=None) if weights_only else detector


def _must_agree(config: Config, *, weights_only: bool) -> dict[str, object]:
    """What weights, atlas and intensity scale depend on, by the names of the options."""
    sampling = config.sampling
    dumped = config.model_dump()
    decisive = ("network",) if weights_only else ("network", "preparation")
    parts = {f"{part}.{name}": value for part in decisive for name, value in dumped[part].items()}
    planes = {"sampling.plane": sampling.plane} if sampling.kind == "slice" else {}
    return parts | {"sampling.kind": sampling.kind, "the shape of a tile": config.tile_shape} | planes
