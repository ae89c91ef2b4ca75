"""A zip of DICOM unpacked within limits: only files that are DICOM, under names of their own, in a folder of its own.

What an archive says of itself is not believed: names lead nowhere, since they are not used; sizes are counted as bytes
come; an archive within it stays packed.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from medvae.errors import MedvaeError
from medvae.files import told
from medvae.imaging.content import CHUNK
from medvae.signatures import START, begins_as_dicom

MOST_FILES = 100_000
"""Of a folder or an archive; a long study has some thousand."""
MOST_BYTES = 8 * 2**30
"""That an archive may unpack to. The studies of ten patients have less."""
DENSEST, SPARED = 100, 64 * 2**20
"""Times its own size that an archive may unpack to, beyond what is spared: images shrink to a half or a third."""


def unpack_dicom(archive: Path, folder: Path) -> list[Path]:
    """Unpack the DICOM files of a zip into a folder, numbered in the archive's order, and return them.

    Parameters
    ----------
    archive
        The zip.
    folder
        An empty folder.

    Raises
    ------
    MedvaeError
        If it is no zip, damaged, encrypted, or holds more than the limits.
    """
    limit = min(MOST_BYTES, DENSEST * archive.stat().st_size + SPARED)
    found: list[Path] = []
    unpacked = 0
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = [entry for entry in packed.infolist() if not entry.is_dir()]
            if len(entries) > MOST_FILES:
                raise MedvaeError(f"{archive}: holds {len(entries):,} files, more than {MOST_FILES:,}. Zip one study.")
            for number, entry in enumerate(entries):
                if entry.flag_bits & 1:
                    raise MedvaeError(f"{archive}: is encrypted. Unpack it with its password and give the folder.")
                with packed.open(entry) as stream:
                    piece = stream.read(START)
                    if not begins_as_dicom(piece):
                        continue
                    path = folder / f"{number:06}.dcm"
                    with told(path), open(path, "xb") as file:
                        while piece:
                            unpacked += len(piece)
                            if unpacked > limit:
                                raise MedvaeError(
                                    f"{archive}: unpacks to more than {limit / 2**30:.2g} GB from "
                                    f"{archive.stat().st_size / 2**20:.2g} MB, as no images do. Unpack it yourself if "
                                    f"you trust it, and give the folder of one person."
                                )
                            file.write(piece)
                            piece = stream.read(CHUNK)
                    found.append(path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, RuntimeError) as error:
        raise MedvaeError(
            f"{archive}: cannot be unpacked ({' '.join(str(error).split()) or type(error).__name__}). Copy or download "
            f"it again, or unpack it yourself and give the folder."
        ) from None
    return found
