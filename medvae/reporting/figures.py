"""Saving a figure: whole or absent, and the same bytes every time."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from medvae.files import write_bytes


def save_figure(figure: Figure, path: Path | str, *, dpi: int = 110) -> Path:
    """Write ``figure`` in the format of the path's ending (PNG, PDF or SVG), without time stamps.

    Text stays text in PDF, as journals ask, and identifiers in SVG do not change from run to run.
    """
    path = Path(path)
    suffix = path.suffix.lstrip(".").lower()
    stamp = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "medvae", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=suffix, dpi=dpi, metadata=stamp.get(suffix))
    return write_bytes(path, buffer.getvalue())
