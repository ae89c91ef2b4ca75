"""Which scan an output was made from: its content decides, wherever the file lies and whatever it is called."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvae.errors import MedvaeError
from medvae.files import file_stamp, sha256


@dataclass(frozen=True)
class Content:
    """The content of the files of a scan, as it was when they were looked at."""

    files: tuple[Path, ...]
    checksums: tuple[str, ...]
    """Their SHA-256."""
    stamps: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, files: Sequence[Path]) -> Content:
        """Read the files; one that is none is left out, for whoever opens it to say so.

        Raises
        ------
        MedvaeError
            If one cannot be read.
        """
        there = tuple(file for file in files if file.is_file())
        try:
            stamps = tuple(map(file_stamp, there))
            return cls(there, tuple(map(sha256, there)), stamps)
        except OSError as error:
            raise MedvaeError(f"{error.filename}: cannot be read ({error.strerror or error}).") from None

    def require_unchanged(self) -> None:
        """Refuse files that have changed since: nobody knows which content was used.

        Raises
        ------
        MedvaeError
            Naming the first of them.
        """
        for file, stamp in zip(self.files, self.stamps, strict=True):
            if not file.is_file() or file_stamp(file) != stamp:
                raise MedvaeError(f"{file}: has changed while it was being used. Run the command again.")


@dataclass(frozen=True)
class Source:
    """The scan that an output was made from, as the output's sidecar says."""

    names: tuple[str, ...]
    """Names of its images."""
    images: tuple[str, ...]
    """Their SHA-256."""
    path: Path | None
    """Where the first of them lay."""

    @classmethod
    def of(cls, sidecar: Mapping[str, Any], folder: Path) -> Source | None:
        """What the sidecar of an output in ``folder`` says; None if it does not say what the scan's content was."""
        names, checksums = sidecar.get("Sources"), sidecar.get("SourcesSha256")
        if not isinstance(checksums, list) or not checksums:
            return None
        names = tuple(map(str, names)) if isinstance(names, list) and names else ("unknown",)
        images = tuple(map(str, checksums[: len(names)]))  # a brain mask's follows
        return cls(names, images, where_it_lay(sidecar, folder))

    def holds(self, image: Path) -> bool:
        """Whether a file has the content of one of the images."""
        return sha256(image) in self.images

    def is_of(self, images: Sequence[Path]) -> bool:
        """Whether these files are the scan: each image is one of them, or each of them is one of the images."""
        there = {sha256(image) for image in images if image.is_file()}
        return bool(there) and (there <= set(self.images) or there >= set(self.images))

    def lay_at(self, image: Path) -> bool:
        """Whether the first image lay where ``image`` lies, whatever is there now."""
        return self.path is not None and _real(self.path) == _real(image)

    def __str__(self) -> str:
        return f"{self.path or self.names[0]} (SHA-256 {self.images[0][:12]}…)"


def where_it_lay(sidecar: Mapping[str, Any], folder: Path) -> Path | None:
    """Where the first image of an output in ``folder`` lay; None if its sidecar does not say."""
    way = sidecar.get("SpatialReference")  # relative to the real folder, which may have been reached by a link
    return Path(os.path.normpath(folder.resolve() / way)) if isinstance(way, str) else None


def other_source(what: str, sidecar: Mapping[str, Any], folder: Path, images: Sequence[Path]) -> str:
    """What is wrong if ``what``, an output in ``folder``, is of another scan than ``images``; empty if nothing is.

    Nothing is known of an output whose sidecar does not tell the content of its scan: that of another tool.
    """
    source = Source.of(sidecar, folder)
    if source is None or not images or source.is_of(images):
        return ""
    if source.lay_at(images[0]):
        return f"{images[0]}: has changed since {what} was made from it"
    if source.path is None and source.names[0] == images[0].name:
        return f"{images[0]}: is not the file that {what} was made from, or has changed since"
    there = f" (SHA-256 {sha256(images[0])[:12]}…)" if images[0].is_file() else ""
    return f"{images[0]}{there}: is another scan than {source}, from which {what} was made"


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path.parent)) / path.name
