"""The layouts that ``medvae manifest`` reads, in the order of its help.

A new one is a file of its own and a line here.
"""

from __future__ import annotations

from typing import Any

from medvae.importing.bids import BIDS
from medvae.importing.brats import BRATS
from medvae.importing.decathlon import DECATHLON
from medvae.importing.folder import FOLDER
from medvae.importing.importer import Importer
from medvae.importing.ixi import IXI
from medvae.importing.nnunet import NNUNET

LAYOUTS: tuple[Importer[Any], ...] = (
    IXI,
    BRATS,
    BIDS,
    NNUNET,
    DECATHLON,
    FOLDER,
)
