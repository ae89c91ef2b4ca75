"""A training's numbers and pictures for TensorBoard, beside those that every run folder holds."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from medvae.config import Config
from medvae.errors import MedvaeError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


def require_tensorboard(config: Config) -> None:
    """Refuse a config that asks for TensorBoard where it is not installed."""
    if config.training.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise MedvaeError(
            "training.tensorboard=true needs the package tensorboard, which is not installed. Run: pip install "
            "tensorboard, or leave the option out: loss.png and metrics.jsonl are always written."
        )


def open_board(out: Path, config: Config, step: int) -> AbstractContextManager[SummaryWriter | None]:
    """What writes to ``out/tensorboard``, without the steps after ``step`` that a stopped run has left there."""
    if not config.training.tensorboard:
        return nullcontext()
    require_tensorboard(config)
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(out / FOLDER), purge_step=step + 1)


def add_picture(board: SummaryWriter | None, picture: Path, step: int) -> None:
    """Show a picture that the run has drawn."""
    if board is not None:
        with Image.open(picture) as image:
            board.add_image(picture.stem, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        board.flush()
