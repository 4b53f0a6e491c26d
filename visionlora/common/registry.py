"""Things that are chosen by name: built in, registered by code that is running, or brought by an installed package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from visionlora.common.errors import UserError, did_you_mean

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Names and what they stand for, which is imported when it is asked for.

    A package brings a name by an entry point, which every command then knows::

        [project.entry-points."visionlora.sources"]
        dicom = "my_package.dicom:source"

    Code that is running brings one with ``register``. A built-in name cannot be taken.

    Args:
        key: of the config that takes the names, for messages.
        group: of the entry points.
        **built_in: name -> ``module:attribute``.
    """

    def __init__(self, key: str, group: str, **built_in: str) -> None:
        self.key, self.group, self.built_in = key, group, built_in
        self._registered: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that gives a function or class this name.

        Raises:
            UserError: the name is built in.
        """
        if name in self.built_in:
            raise UserError(f"{self.key}={name} is built in; register yours under another name.")

        def keep(thing: T) -> T:
            self._registered[name] = thing
            return thing

        return keep

    def brought(self) -> dict[str, EntryPoint]:
        """The names that installed packages bring; nothing of theirs is imported."""
        return {point.name: point for point in entry_points(group=self.group) if point.name not in self.built_in}

    def check(self, name: str) -> None:
        """See that there is such a name.

        Raises:
            UserError: there is none.
        """
        if name not in self:
            raise UserError(f"{self.key}={name[:80]} is unknown; it is one of {', '.join(self)}.{did_you_mean(name, self)}")

    def __getitem__(self, name: str) -> T:
        """What the name stands for.

        Raises:
            KeyError: there is no such name.
            UserError: the package that brings it cannot be imported.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self.built_in:
            module, _, attribute = self.built_in[name].partition(":")
            return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
        point = self.brought()[name]
        try:
            return point.load()  # type: ignore[no-any-return]
        except Exception as error:  # whatever a package does when it is imported
            package = point.dist.name if point.dist else point.value
            raise UserError(f"{self.key}={name}: the package {package} brings it and cannot be imported ({error!r}).") from error

    def __contains__(self, name: object) -> bool:
        return name in self._registered or name in self.built_in or name in self.brought()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.built_in, *self._registered, *self.brought()]))

    def __len__(self) -> int:
        return len(list(iter(self)))
