"""What to adapt, and how strongly. Free of torch, so that a mistake in it is told before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from visionlora.errors import UserError, did_you_mean

METHODS = ("lora", "none", "full")
"""``none`` trains the head alone (a linear probe), ``full`` trains every weight; both go through the same command."""


@dataclass(frozen=True)
class LayerRank:
    """Rank and alpha of one layer; ``explicit`` if the user named this rank for this layer, who then gets it or an error."""

    r: int
    alpha: float
    explicit: bool = False


@dataclass
class LoraConfig:
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685, §4.1): ``W + scaling · B A``.

    Args:
        r: rank of every update; capped where a layer is smaller.
        alpha: strength; ``scaling = alpha / r``. ``None`` means ``2 r``, so that a sweep over ranks keeps the scaling
            (without ``use_rslora``, whose scaling grows with the root of the rank then).
        dropout: probability with which an input feature of the update (a column of ``A``) is left out in training.
            PEFT masks elements of the activation instead.
        targets: ``"auto"`` (every linear and conv layer but the head, depthwise convs excluded), ``"all"`` (depthwise too),
            a glob pattern or a list of them, or a mapping from pattern to a rank or to ``{r: …, alpha: …}``.
            A pattern matches a layer's whole name, its last parts (``qkv``), or the block it is in (``layer4``).
        exclude: patterns of layers to leave out of ``targets``.
        method: ``lora``, or ``none`` (linear probe) or ``full`` (full fine-tuning).
        use_rslora: ``scaling = alpha / sqrt(r)`` (Kalajdzievski 2023, arXiv 2312.03732, §3).
        train_head: train the classifier, and save it whole.

    Raises:
        UserError: a value out of range.
    """

    r: int = 4
    alpha: float | None = None
    dropout: float = 0.0
    targets: Any = "auto"
    exclude: list[str] = field(default_factory=list)
    method: str = "lora"
    use_rslora: bool = False
    train_head: bool = True

    def __post_init__(self) -> None:
        _check_rank("lora.r", self.r)
        if self.method not in METHODS:
            raise UserError(f"lora.method={self.method} is unknown; it is one of {', '.join(METHODS)}.{did_you_mean(self.method, METHODS)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora.dropout={self.dropout} must be at least 0 and below 1.")
        if self.alpha is not None and not self.alpha > 0:
            raise UserError(f"lora.alpha={self.alpha} must be above 0 (or null for 2 r).")
        if isinstance(self.targets, dict):
            for pattern, value in self.targets.items():
                self._rank_of(pattern, value)
        elif not isinstance(self.targets, str) and not (
            isinstance(self.targets, list | tuple) and self.targets and all(isinstance(p, str) for p in self.targets)
        ):
            raise UserError(
                f"lora.targets={self.targets!r} must be 'auto', 'all', a pattern, a list of patterns, or a mapping from pattern to rank."
            )

    def patterns(self) -> dict[str, LayerRank]:
        """Each pattern of ``targets`` with the rank and alpha it asks for, in the order given; later patterns win."""
        if isinstance(self.targets, dict):
            return {pattern: self._rank_of(pattern, value) for pattern, value in self.targets.items()}
        names = [self.targets] if isinstance(self.targets, str) else list(self.targets)
        return {name: self._rank(self.r, self.alpha, explicit=False) for name in names}

    def scaling(self, rank: LayerRank) -> float:
        """The factor in front of ``B A`` for a layer of this rank and alpha."""
        return rank.alpha / (rank.r**0.5 if self.use_rslora else rank.r)

    def _rank_of(self, pattern: str, value: Any) -> LayerRank:
        key = f"lora.targets['{pattern}']"
        if isinstance(value, dict):
            unknown = set(value) - {"r", "alpha"}
            if unknown:
                raise UserError(f"{key} has the unknown key {sorted(unknown)[0]!r}; it takes r and alpha.")
            r, alpha = value.get("r", self.r), value.get("alpha", self.alpha)
        else:
            r, alpha = value, self.alpha
        _check_rank(key, r)
        return self._rank(r, alpha, explicit=not isinstance(value, dict) or "r" in value)

    @staticmethod
    def _rank(r: int, alpha: float | None, explicit: bool) -> LayerRank:
        return LayerRank(r, float(2 * r if alpha is None else alpha), explicit)


def _check_rank(key: str, r: Any) -> None:
    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        raise UserError(f"{key}={r} is not a rank: it must be a whole number of at least 1 (lora=none trains the head alone).")
