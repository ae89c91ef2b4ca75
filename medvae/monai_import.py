"""MONAI, imported where something of it is used."""

from __future__ import annotations

import getpass
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medvae.errors import MedvaeError


def import_monai(module: str) -> Any:
    """A module of MONAI, such as ``"networks.nets"``. It takes seconds to import, so the plain VAE does without.

    Raises
    ------
    MedvaeError
        If MONAI is not installed.
    """
    try:
        with _user_with_a_name():
            return importlib.import_module(f"monai.{module}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "monai":
            raise
        raise MedvaeError(
            "MONAI, which this network or transform is from, is not installed: pip install monai. The plain VAE "
            "(network.kind=vae with network.residual_blocks=0) works without it."
        ) from None


@contextmanager
def _user_with_a_name() -> Iterator[None]:
    """MONAI asks for the user's name when it is imported, and a user of a container may have none.

    So it is where ``docker run --user`` names a number that the image does not know.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = "user"
        try:
            yield
        finally:
            del os.environ["LOGNAME"]
    else:
        yield
