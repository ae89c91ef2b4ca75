"""The transforms of ``augmentation.extra`` at work: made once, seeded anew for each sample, and called on it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medvae.augmentation.extra import MONAI, ExtraTransform
from medvae.augmentation.randomness import seed_word
from medvae.errors import MedvaeError
from medvae.monai_import import import_monai

KEYS = ("image", "mask")
"""Of the dictionaries that MONAI's dictionary transforms are given."""

_SEED = 0xE8A  # apart from all other numbers that are drawn from (seed, epoch, index)
_ROOMS = ("intensity", "smooth_field", "spatial")  # of monai.transforms: those that change images
_MOVING_ROOMS = ("spatial_transforms", "crop_and_pad_transforms")  # of batchgenerators.transforms
_MOVES = "RandSmoothDeform"  # spatial, though not in MONAI's room of that name
_STAYS = "RandSimulateLowResolution"  # in that room, and moves nothing


class Foreign(ABC):
    """A transform of another library, for one sample ``(C, *spatial)`` at a time.

    Parameters
    ----------
    name
        Its dotted name, for errors.
    transform
        The object.
    moves_mask
        Whether it moves the mask with the image.
    """

    def __init__(self, name: str, transform: Any, *, moves_mask: bool) -> None:
        self.name, self._transform, self.moves_mask = name, transform, moves_mask

    def __call__(self, image: Tensor, mask: Tensor, seed: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Change ``image (C, *spatial)`` and, if it moves, ``mask (1, *spatial)`` bool; both are left as they are.

        The background is set to 0; a brain that would leave the tile is not moved.

        Raises
        ------
        MedvaeError
            If the transform fails, or gives an image of another shape.
        """
        try:
            changed, brain = self._call(image.clone(), mask, seed_word(seed))
        except Exception as error:  # whatever another library raises
            raise MedvaeError(
                f"the extra transform {self.name} failed on an image of shape {tuple(image.shape)} (channels first): "
                f"{type(error).__name__}: {error}. Check its arguments."
            ) from error
        if changed.shape != image.shape or brain.shape != mask.shape:
            raise MedvaeError(
                f"the extra transform {self.name} made an image of shape {tuple(changed.shape)} out of one of "
                f"{tuple(image.shape)}. Use a transform that keeps the shape, or arguments with which it does."
            )
        changed, brain = changed.to(image), brain.to(mask.device)
        if not brain.any():
            return image, mask
        return changed.masked_fill(~brain, 0), brain

    @abstractmethod
    def _call(self, image: Tensor, mask: Tensor, word: int) -> tuple[Tensor, Tensor]:
        """Seed the transform with 32 bits and call it."""


class _MonaiArray(Foreign):
    """Where it moves the image, the mask goes along as one more channel."""

    def _call(self, image: Tensor, mask: Tensor, word: int) -> tuple[Tensor, Tensor]:
        _seed(self._transform, word)
        if not self.moves_mask:
            return _plain(self._transform(image)), mask
        moved = _plain(self._transform(torch.cat([image, mask.to(image.dtype)])))
        return moved[:-1], moved[-1:] > 0.5


class _MonaiDictionary(Foreign):
    def _call(self, image: Tensor, mask: Tensor, word: int) -> tuple[Tensor, Tensor]:
        _seed(self._transform, word)
        changed = self._transform(dict(zip(KEYS, (image, mask.to(image.dtype)), strict=True)))
        image, moved = (_plain(changed[key]) for key in KEYS)
        return image, moved > 0.5


class _Batchgenerators(Foreign):
    def _call(self, image: Tensor, mask: Tensor, word: int) -> tuple[Tensor, Tensor]:
        batch = {"data": image[None].cpu().numpy(), "seg": mask[None].cpu().numpy().astype(np.float32)}
        with _global_generators(word):
            batch = self._transform(**batch)
        changed = torch.from_numpy(np.ascontiguousarray(batch["data"][0]))
        return changed, torch.from_numpy(batch["seg"][0] > 0.5) if self.moves_mask else mask


def apply_extra(
    extra: Sequence[ExtraTransform], image: Tensor, mask: Tensor, seed: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Apply the transforms to one sample ``(C, *spatial)``, each with a seed of its own."""
    for place, transform in enumerate(made(tuple(extra)), start=1):
        image, mask = transform(image, mask, (*seed, _SEED, place))
    return image, mask


@functools.lru_cache
def made(extra: tuple[ExtraTransform, ...]) -> tuple[Foreign, ...]:
    """The transforms that a config lists.

    Raises
    ------
    MedvaeError
        For one that cannot be made with its arguments, or cannot be used here.
    """
    return tuple(_make(one) for one in extra)


def require_usable(extra: Sequence[ExtraTransform], shape: Sequence[int], *, may_move: bool = True) -> None:
    """Make the transforms and try them on a tile of ``shape``: what is wrong is better told before than in training.

    Parameters
    ----------
    extra
        The transforms.
    shape
        Spatial shape of a tile.
    may_move
        False refuses those that move the brain: in ``objective.appearance`` the truth would stay behind.

    Raises
    ------
    MedvaeError
        For a transform that cannot be used.
    """
    if not extra:
        return
    for transform in made(tuple(extra)):
        if transform.moves_mask and not may_move:
            raise MedvaeError(
                f"objective.appearance.extra: {transform.name} moves the brain, and the truth would stay behind. Use "
                f"it in augmentation.extra."
            )
    image = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0))
    for index in range(4):  # most are left out by chance now and then
        apply_extra(extra, image, torch.ones_like(image) > 0, (0, index))


def _make(extra: ExtraTransform) -> Foreign:
    name, arguments = extra.transform, extra.arguments
    module, _, attribute = name.rpartition(".")
    of_monai = name.startswith(MONAI)
    found = import_monai(module.removeprefix("monai.")) if of_monai else importlib.import_module(module)
    kind = getattr(found, attribute)
    make = _make_monai if of_monai else _make_batchgenerators
    try:
        return make(name, kind, arguments)
    except MedvaeError:
        raise
    except Exception as error:  # whatever another library raises
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise MedvaeError(f"the extra transform {name}({given}) cannot be made: {error}") from error


def _make_monai(name: str, kind: Any, arguments: dict[str, Any]) -> Foreign:
    from monai.transforms.traits import RandomizableTrait
    from monai.transforms.transform import MapTransform, Randomizable, Transform

    room = getattr(kind, "__module__", "").removeprefix(f"{MONAI}.").partition(".")[0]
    if not (isinstance(kind, type) and issubclass(kind, Transform | RandomizableTrait)) or room not in _ROOMS:
        raise MedvaeError(
            f"the extra transform {name} is none of MONAI's {', '.join(_ROOMS[:-1])} or {_ROOMS[-1]} transforms, which "
            f"change an image and keep its shape. Use one of those."
        )
    if issubclass(kind, RandomizableTrait) and not issubclass(kind, Randomizable):
        raise MedvaeError(
            f"the extra transform {name} draws from a global generator, so that its result could not be repeated. Use "
            f"another transform."
        )
    array = kind.__name__.removesuffix("d")
    moves = array == _MOVES or (room == "spatial" and array != _STAYS)
    if not issubclass(kind, MapTransform):
        return _MonaiArray(name, kind(**arguments), moves_mask=moves)
    keys = KEYS if moves else KEYS[:1]
    transform = kind(**({"keys": keys} | arguments))
    if set(transform.keys) != set(keys):
        raise MedvaeError(
            f"the extra transform {name} has keys {list(transform.keys)}; {list(keys)} was expected, as it "
            f"{'moves the image, and the mask with it' if moves else 'does not move the image, so the mask stays'}."
        )
    return _MonaiDictionary(name, transform, moves_mask=moves)


def _make_batchgenerators(name: str, kind: Any, arguments: dict[str, Any]) -> Foreign:
    from batchgenerators.transforms.abstract_transforms import AbstractTransform

    if not issubclass(kind, AbstractTransform):
        raise MedvaeError(f"the extra transform {name} is not a transform of batchgenerators.")
    return _Batchgenerators(name, kind(**arguments), moves_mask=any(f".{room}." in name for room in _MOVING_ROOMS))


def _seed(transform: Any, word: int) -> None:
    """MONAI's transforms draw from a generator of their own."""
    if hasattr(transform, "set_random_state"):
        transform.set_random_state(seed=word)


def _plain(image: Any) -> Tensor:
    """MONAI gives tensors that carry an affine, or arrays."""
    return image.as_tensor() if hasattr(image, "as_tensor") else torch.as_tensor(image)


@contextlib.contextmanager
def _global_generators(word: int) -> Iterator[None]:
    """Seed the global generators, which are the only ones batchgenerators draws from, and put their state back."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - see above
    np.random.seed(word)  # noqa: NPY002
    random.seed(word)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
