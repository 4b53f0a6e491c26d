"""Change what a module does by exchanging its class, in place, for a subclass of that module's own class.

Nothing is wrapped: state-dict keys, ``isinstance`` and every attribute of the module stay. Classes made here cannot be
imported by name, so instances pickle and deep-copy by naming the mixin and the base class.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self, cast

from torch import nn


class Swapped(nn.Module):
    """Mixin of every exchanged class; ``swap`` puts it in front of the module's own class."""

    prefix: ClassVar[str] = "Swapped"
    base_class: ClassVar[type[nn.Module]]
    attributes: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def attribute(cls, name: str) -> property:
        """The property that stands for attribute ``name`` in the exchanged class."""
        raise NotImplementedError

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _rebuild, (self.mixin(), self.base_class, self.attributes), object.__getstate__(self)

    @classmethod
    def mixin(cls) -> type[Self]:
        """The importable class this one was made from."""
        return cls.__bases__[0]


_CLASSES: dict[tuple[Any, Any, tuple[str, ...]], type[Any]] = {}


def subclass(mixin: type[Any], base: type[Any], attributes: tuple[str, ...] = ()) -> type[Any]:
    """``mixin`` in front of ``base``. Cached for speed only; nothing relies on identity."""
    if (mixin, base, attributes) in _CLASSES:
        return _CLASSES[mixin, base, attributes]
    namespace: dict[str, Any] = {"base_class": base, "attributes": attributes, "__doc__": base.__doc__}
    namespace |= {name: mixin.attribute(name) for name in attributes}
    made = _CLASSES[mixin, base, attributes] = type(mixin.prefix + base.__name__, (mixin, base), namespace)
    return made


def swap(module: nn.Module, mixin: type[Swapped], attributes: tuple[str, ...] = ()) -> None:
    """Exchange the class of ``module`` for ``mixin`` in front of it."""
    cls: type[Any] = type(module)
    module.__class__ = subclass(mixin, cls, attributes)


def restore(module: Swapped) -> None:
    """Give ``module`` its own class back."""
    base: type[Any] = module.base_class
    module.__class__ = base


def _rebuild(mixin: type[Any], base: type[Any], attributes: tuple[str, ...]) -> nn.Module:
    cls = subclass(mixin, base, attributes)
    return cast(nn.Module, object.__new__(cls))
