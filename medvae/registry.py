"""Implementations by name, each registered in the file that defines it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

Implementation = TypeVar("Implementation")


class Registry(Generic[Implementation]):
    """The implementations of declared names, in one package.

    The files of the package register themselves with ``@registry("name")``. They are imported when the first
    implementation is asked for, so a new file needs no entry in a list of imports.

    Parameters
    ----------
    what
        What is registered, for errors: "score".
    declared
        The names that a config may give.
    package
        Dotted name of the package whose files hold the implementations.
    """

    def __init__(self, what: str, declared: Collection[str], package: str) -> None:
        self._what, self._declared, self._package = what, declared, package
        self._found: dict[str, Implementation] = {}
        self._complete = False

    def __call__(self, name: str) -> Callable[[Implementation], Implementation]:
        """Register what is decorated, and leave it as it is.

        Raises
        ------
        LookupError
            If the name is not declared, or taken.
        """
        if name not in self._declared:
            raise LookupError(f'{self._what} "{name}" is implemented but not declared in medvae/config/methods.py.')
        if name in self._found:
            raise LookupError(f'{self._what} "{name}" is implemented twice.')

        def register(implementation: Implementation) -> Implementation:
            self._found[name] = implementation
            return implementation

        return register

    def __getitem__(self, name: str) -> Implementation:
        """The implementation of a declared name.

        Raises
        ------
        LookupError
            If no file of the package registers it.
        """
        if name not in self.names():
            raise LookupError(f'{self._what} "{name}" is declared, but no file of {self._package} implements it.')
        return self._found[name]

    def names(self) -> set[str]:
        """The names that are implemented."""
        if not self._complete:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__, prefix=f"{self._package}."):
                importlib.import_module(module.name)
            self._complete = True
        return set(self._found)
