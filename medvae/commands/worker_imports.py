"""What a process needs to predict scans, for `medvae.workers.import_ahead`: imported for that, and used by nobody."""

import contextlib
import importlib

from medvae.monai_import import import_monai

for _name in ("networks.segmenter", "prediction", "preparation.n4", "reporting.case_picture"):
    with contextlib.suppress(Exception):  # whoever needs it meets the same error, and tells it
        importlib.import_module(f"medvae.{_name}")
with contextlib.suppress(Exception):
    import_monai("networks")
