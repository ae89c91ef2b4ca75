"""What a process needs to predict scans, for `medvae.workers.import_ahead`: imported for that, and used by nobody."""

import contextlib
import importlib

from medvae.errors import MedvaeError
from medvae.monai_import import import_monai

for _name in ("networks.segmenter", "prediction", "preparation.n4", "reporting.case_picture"):
    importlib.import_module(f"medvae.{_name}")
with contextlib.suppress(MedvaeError):  # whoever needs it will say that it is not installed
    import_monai("networks")
