"""Label names of an nnU-Net or Decathlon dataset.json to the regions of a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvae.errors import MedvaeError
from medvae.importing.listing import some
from medvae.manifest import IGNORED

LESION = "Label that counts as lesion, by name; may be repeated. All by default."
"""Help of the option --lesion."""


def read_dataset(source: Path) -> tuple[Path, dict[str, Any]]:
    """The dataset.json of a folder and its content.

    Raises
    ------
    MedvaeError
        If there is none, or it is not an object with ``labels``.
    """
    from medvae.schema import read_document  # pydantic comes with it

    path = source / "dataset.json"
    if not path.is_file():
        inside = sorted(found.parent.name for found in source.glob("*/dataset.json"))
        hint = f" It lies in {some(inside)}: give one of these." if inside else " Check the path."
        raise MedvaeError(f"{path}: there is no such file; the data set's folder was expected.{hint}")
    content = read_document(path)
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise MedvaeError(f'{path}: has no "labels", an nnU-Net or Decathlon dataset.json was expected.')
    return path, content


def channels_of(content: Mapping[str, Any], path: Path) -> list[str]:
    """Names of the modalities in order, from ``channel_names`` (nnU-Net v2) or ``modality`` (v1, Decathlon)."""
    names = content.get("channel_names") or content.get("modality")
    if not isinstance(names, dict) or sorted(names) != sorted(str(index) for index in range(len(names))):
        raise MedvaeError(
            f'{path}: "channel_names" (or "modality") must name the channels "0", "1", …; found {str(names)[:200]}.'
        )
    return [str(names[str(index)]) for index in range(len(names))]


def choose_channels(channels: Sequence[str], wanted: Sequence[str], path: Path) -> list[int]:
    """Indices of the modalities asked for by name, all of them by default."""
    if not wanted:
        return list(range(len(channels)))
    lower = [name.lower() for name in channels]
    for name in wanted:
        if name.lower() not in lower:
            raise MedvaeError(f"--modality {name}: {path} has {', '.join(channels)}. Choose among them.")
    return list(dict.fromkeys(lower.index(name.lower()) for name in wanted))


def regions_of(labels: Mapping[str, Any], lesion: Sequence[str], path: Path) -> dict[str, list[int]]:
    """Region name to label values; the first region is what is evaluated.

    Parameters
    ----------
    labels
        Name to value or values (nnU-Net v2), or value to name (v1, Decathlon).
    lesion
        Names of the labels that are lesion; every label but the background by default.
    path
        The file that errors name.
    """
    named: dict[str, list[int]] = {}
    try:
        for key, value in labels.items():
            if isinstance(value, str) and key.lstrip("-").isdigit():
                named[value] = [int(key)]
            else:
                named[key] = sorted(int(v) for v in (value if isinstance(value, list) else [value]))
    except (TypeError, ValueError):
        raise MedvaeError(
            f'{path}: "labels" must give each name a number or numbers; found {str(labels)[:200]}.'
        ) from None
    named = {name: values for name, values in named.items() if values != [0]}
    ignored = {IGNORED: named.pop(IGNORED)} if IGNORED in named else {}
    unknown = [name for name in lesion if name not in named]
    if unknown:
        raise MedvaeError(f"--lesion {unknown[0]}: {path} has the labels {', '.join(named)}. Choose among them.")
    whole = sorted({value for name in (lesion or named) for value in named[name]})
    if not whole:
        raise MedvaeError(f'{path}: "labels" names nothing but background.')
    first = next((name for name, values in named.items() if values == whole), "lesion")
    return {first: whole, **{name: values for name, values in named.items() if name != first}, **ignored}
