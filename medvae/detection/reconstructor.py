"""Reconstruct, then discriminate: a network trained on healthy scans provides input to one that detects lesions."""

from __future__ import annotations

from medvae.config import Config
from medvae.config.methods import NETWORKS
from medvae.detection.detector import Detector
from medvae.errors import MedvaeError
from medvae.manifest import Manifest
from medvae.modality import same_modalities
from medvae.networks.interface import Network
from medvae.training.run_folder import refuse_learned


def with_reconstructor(config: Config, manifest: Manifest) -> tuple[Config, Network]:
    """The config with the reconstructor's network section filled in from its run folder, and that network.

    Raises
    ------
    MedvaeError
        If there is no such run, it does not match the config (other modalities, preparation or tiles, a network without
        reconstruction or KL divergence), or it was trained on a validation scan of the manifest.
    """
    section = config.network_options
    options = section.reconstructor
    if options is None:
        raise ValueError(f'"{config.name}" has no network.reconstructor; one was expected.')
    try:
        detector = Detector.load(options.run, device="cpu")
    except MedvaeError as error:
        raise MedvaeError(f"network.reconstructor.run: {error} A reconstructor is the run of one network.") from None
    first, reconstructor = detector.config, detector.network
    where = f"network.reconstructor.run: {options.run}"
    if first.network is None or reconstructor is None or NETWORKS[first.network.kind].segments:
        raise MedvaeError(f"{where}: has no network that reconstructs scans. Give the run of a VAE, or dae.")
    if not same_modalities(detector.modalities, manifest.modalities):
        raise MedvaeError(
            f"{where}: was trained on {', '.join(detector.modalities)}, and {manifest.path} has "
            f"{', '.join(manifest.modalities)}. Give both the same modalities, in the same order."
        )
    for name, value in _like(first).items():
        if value != _like(config)[name]:
            raise MedvaeError(
                f"{where}: was trained with {name}={value}, and here it is {_like(config)[name]}. A network can judge "
                f"only scans and tiles like its own: give both the same."
            )
    if first.network.bias_field == "removed" and not section.atlas:
        raise MedvaeError(
            f"{where}: was trained on scans without residual bias field. Add network.atlas, which removes it here."
        )
    if "kl_gradient" in options.shows and not first.trains_posterior:
        raise MedvaeError(f"{where}: has no KL divergence. Remove kl_gradient from network.reconstructor.shows.")
    healthy = manifest.of_split("validation", healthy=True)
    refuse_learned([options.run], {case.id: manifest.images(case) for case in healthy}, manifest.path)
    filled = options.model_copy(update={"network": first.network})
    network = section.model_copy(update={"reconstructor": filled})
    return config.model_copy(update={"network": network}), reconstructor


def _like(config: Config) -> dict[str, object]:
    """What a network and its reconstructor must have in common."""
    sampling, preparation = config.sampling, config.preparation.model_dump()
    tiles = {"sampling.kind": sampling.kind, "the shape of a tile": config.tile_shape}
    planes = {"sampling.plane": sampling.plane} if sampling.kind == "slice" else {}
    return {f"preparation.{name}": value for name, value in preparation.items()} | tiles | planes
