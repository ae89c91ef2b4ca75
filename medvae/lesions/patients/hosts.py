"""What makes a patient's brain unlike the healthy ones and is no lesion: atrophy, and errors of skull stripping."""

from __future__ import annotations

import torch

from medvae.lesions.patients.scene import Scene, neighbourhood, spread

LAYERS = 3
"""Voxels, at most, that are added outside the brain, or taken from its edge."""


def widen_fluid(scene: Scene) -> None:
    """Wider sulci and ventricles: next to fluid there is less tissue, more in some places than in others."""
    fluid, white = (float(scene.level(share)[0]) for share in (0, 1))
    sign = 1 if white > fluid else -1  # fluid is the brightest on T2
    darkest = torch.where(scene.mask, sign * scene.image, torch.inf)
    for axis in (1, 2, 3):
        darkest = spread(darkest, axis, torch.minimum)
    darkest = sign * darkest
    share = (scene.uniform(0.1, 0.9) + 0.3 * scene.noise(40)).clamp(0, 1)
    dark = torch.sigmoid(sign * (float(scene.level(0.5)[0]) - darkest) / 0.05)  # grey beside white matter stays
    scene.image = torch.where(scene.mask, scene.image + (darkest - scene.image) * share * dark, 0)


def strip_badly(scene: Scene) -> None:
    """Errors of skull stripping, where they are: patches added, patches taken away, the top or the bottom cut off."""
    if scene.chance(0.7):
        _add(scene)
    if scene.chance(0.5):
        _take(scene)
    if scene.chance(0.12):
        _cut(scene)
    scene.image = scene.image * scene.mask
    scene.truth &= scene.mask


def _add(scene: Scene) -> None:
    """Leave dura, fat, bone or muscle on: layers outside the brain, of an intensity each, in patches."""
    where = scene.noise(scene.uniform(14, 50)) > scene.uniform(0.2, 2.2)
    layers = 1 + int(scene.rng.integers(LAYERS))
    lateral = 0.15 * scene.noise(8)
    for _ in range(layers):
        layer = neighbourhood(scene.mask) & ~scene.mask & where
        value = scene.level(scene.uniform(-0.1, 1.5)) * (1 + lateral) + 0.04 * scene.noise(2)
        scene.image = torch.where(layer, value.clamp(min=0.005), scene.image)
        scene.mask |= layer


def _take(scene: Scene) -> None:
    """Take layers of the brain away, in patches."""
    where = scene.noise(scene.uniform(14, 50)) > scene.uniform(0.2, 2.2)
    for _ in range(1 + int(scene.rng.integers(LAYERS))):
        scene.mask = scene.mask & ~(neighbourhood(~scene.mask) & where)


def _cut(scene: Scene) -> None:
    """Cut off the bottom, without cerebellum, or the top."""
    used = scene.mask.any(0).any(0).nonzero()[:, 0]
    low, high = int(used[0]), int(used[-1])
    if scene.chance(0.6):
        scene.mask[..., : low + round(scene.uniform(0.05, 0.3) * (high - low))] = False
    else:
        scene.mask[..., high - round(scene.uniform(0.03, 0.2) * (high - low)) :] = False
