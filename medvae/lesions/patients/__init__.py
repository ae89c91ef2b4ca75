"""Healthy scans made into patients, with exact truth: what networks that segment learn from.

A patient differs from the healthy scan in three ways. `deformation` moves tissue: another anatomy, wide ventricles, the
mass effect of a tumour. `tumour`, `infarct` and `spots` are lesions, which are in the truth. `hosts` alters what is no
lesion: wide sulci, errors of skull stripping. `patient` draws them all. Nothing is shared with the lesions of
benchmarks (`medvae.lesions.insertion`, `medvae.lesions.families`).
"""

from medvae.lesions.patients.patient import make_patient

__all__ = ["make_patient"]
