"""Results of one row and seed on one target, stored in a folder.

``results.json, summary.csv, per_case.csv``   as ``medvae evaluate`` writes them
``counts.npz``                                voxel counts of each lesion case, for curves and paired differences
``resampled.npz``                             numbers of resampled subjects, for intervals
``timing.json``                               seconds to score one prepared scan
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from medvae.benchmark.statistics import Measured
from medvae.errors import MedvaeError
from medvae.evaluation.curves import SparseCounts
from medvae.evaluation.result import quantities
from medvae.evaluation.writing import read_study, write_study
from medvae.files import whole_folder, write_bytes, write_json
from medvae.schema import read_document

COUNTS = "counts.npz"
RESAMPLED = "resampled.npz"
TIMING = "timing.json"


def keep(measured: Measured, folder: Path) -> None:
    """Write to ``folder``, whole or not at all."""
    study = measured.study
    counts = [one.sparse() for _, _, one in study.counts]
    arrays = {
        name: np.concatenate([getattr(one, name) for one in counts] or [np.zeros(0)]).astype(np.uint32)
        for name in ("bins", "lesion", "healthy")
    }
    arrays["lengths"] = np.array([len(one.bins) for one in counts], np.int64)
    with whole_folder(folder) as temporary:
        write_study(study, temporary)
        write_bytes(temporary / COUNTS, _compressed(arrays))
        write_bytes(
            temporary / RESAMPLED,
            _compressed({quantity.column: values for quantity, values in measured.resampled.items()}),
        )
        write_json(temporary / TIMING, {"seconds_per_scan": measured.seconds_per_scan})


def recall(folder: Path) -> Measured:
    """Read what `keep` wrote.

    Raises
    ------
    MedvaeError
        If a file is damaged.
    """
    try:
        study, _ = read_study(folder)
        with np.load(folder / COUNTS) as arrays:
            parts = [
                np.split(arrays[name], np.cumsum(arrays["lengths"])[:-1]) for name in ("bins", "lesion", "healthy")
            ]
        ill = [(case.id, case.subject) for case in study.per_case if case.ill]
        counts = [
            (*who, SparseCounts(bins, lesion.astype(np.int64), healthy.astype(np.int64)).packed())
            for who, bins, lesion, healthy in zip(ill, *(parts if ill else ((), (), ())), strict=True)
        ]
        with np.load(folder / RESAMPLED) as arrays:
            known = quantities([point.name for point in study.operating_points])
            resampled = {known[name]: values for name, values in arrays.items() if name in known}
        return Measured(
            replace(study, counts=counts), resampled, float(read_document(folder / TIMING)["seconds_per_scan"])
        )
    except (MedvaeError, OSError, BadZipFile, KeyError, TypeError, ValueError) as error:
        raise MedvaeError(
            f"{folder}: what was measured there cannot be read ({error}). Remove the folder, and run the study again."
        ) from None


def _compressed(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # a name could be "allow_pickle"; none here is
    return buffer.getvalue()
