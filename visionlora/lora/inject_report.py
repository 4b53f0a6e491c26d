"""What an injection did, to be read and printed."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LayerReport:
    """One adapter that was added.

    Attributes:
        name: of its slot.
        kind: name of the layer's class.
        shape: of the weight.
        r: rank.
        alpha: of the adapter.
        parameters: of the adapter.
        capped: whether a larger rank was asked for.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    r: int
    alpha: float
    parameters: int
    capped: bool


@dataclass
class InjectReport:
    """What ``inject`` did.

    Attributes:
        layers: the adapters that were added.
        trainable: parameters of the model that are trained now.
        total: all its parameters.
        zero_gradient: names of adapters whose gradient was zero on the example, which is no mistake in itself.
        left_out: names of slots whose adapter would have had more parameters than the layer.
        note: a sentence on what the audit had to leave out, or ``""``.
    """

    layers: list[LayerReport] = field(default_factory=list)
    trainable: int = 0
    total: int = 0
    zero_gradient: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def adapter_parameters(self) -> int:
        """Parameters of all adapters that were added."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def capped(self) -> list[LayerReport]:
        """The adapters for which a larger rank was asked."""
        return [layer for layer in self.layers if layer.capped]

    def __str__(self) -> str:
        lines = [f"{x.name}  {x.kind}{x.shape}  r={x.r}{' (capped)' if x.capped else ''}  {x.parameters:,}" for x in self.layers]
        if self.left_out:
            lines.append(f"left out, an update would have more parameters than the layer: {', '.join(self.left_out)}")
        if self.note:
            lines.append(self.note)
        share = 100 * self.trainable / max(self.total, 1)
        return "\n".join([*lines, f"trainable {self.trainable:,} of {self.total:,} parameters ({share:.2f} %)"])
