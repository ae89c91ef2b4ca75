"""Options of simulated patients: which lesions healthy scans are given, and how else patients differ."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medvae.schema import Strict


class PatientConfig(Strict):
    """Whole healthy scans made into patients, for a network to learn from; see ``medvae/lesions/patients``.

    A scan has at most one of tumour, infarct, spots and foreign lesions; the rest have none. What is not a lesion, such
    as a wide ventricle, is drawn whether there is a lesion or not and is never in the truth."""

    sequence: Literal["T1", "FLAIR", "T2"] = "T1"
    """Sequence of the healthy scans: where tissues lie on its intensity scale, and what lesions look like."""
    tumour: float = Field(0.34, ge=0, le=1)
    """Fraction of scans with a tumour: a core, oedema around it, and displaced tissue."""
    infarct: float = Field(0.2, ge=0, le=1)
    """Fraction with old infarcts: cavities filled with fluid, and gliosis."""
    spots: float = Field(0.14, ge=0, le=1)
    """Fraction with small lesions of white matter: dark on T1, bright on FLAIR and T2."""
    foreign: float = Field(0.2, ge=0, le=1)
    """Fraction with lesions of ``objective.lesions``, which imitate no disease."""
    tumour_ml: tuple[float, float] = (1.5, 250.0)
    """Smallest and largest tumour, oedema included; large ones are more frequent than small ones."""
    infarct_ml: tuple[float, float] = (0.3, 220.0)
    """Smallest and largest infarct; every octave is equally likely."""
    outlines: str | None = None
    """File with outlines of real infarcts, made by ``pipelines/make_stroke_outlines.py``: two thirds of the infarcts of
    a territory are then given one of them."""
    spot_mm: tuple[float, float] = (1.5, 7.0)
    """Smallest and largest mean radius of a spot."""
    rotation_degrees: float = Field(6.0, ge=0, le=45)
    """Largest rotation about each axis, to either side: registration is never exact, least in patients."""
    scale: float = Field(0.06, ge=0, lt=0.5)
    """Largest change of size, as a fraction."""
    deformation_mm: float = Field(1.5, ge=0)
    """SD of a smooth random deformation with a node every 32 mm."""
    ventricles: float = Field(0.5, ge=0, le=1)
    """Fraction of scans with wider or narrower lateral ventricles, each side by itself."""
    atrophy: float = Field(0.35, ge=0, le=1)
    """Fraction with wider sulci and ventricles."""
    stripping: float = Field(0.5, ge=0, le=1)
    """Fraction with errors of skull stripping: brain that is missing, dura, fat or bone that is left."""

    @model_validator(mode="after")
    def _ranges(self) -> PatientConfig:
        if self.tumour + self.infarct + self.spots + self.foreign > 1:
            raise ValueError("tumour, infarct, spots and foreign are fractions of the scans: their sum exceeds 1.")
        for name in ("tumour_ml", "infarct_ml", "spot_mm"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be a range from low to high, above 0; found [{low:g}, {high:g}].")
        return self
