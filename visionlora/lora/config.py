"""What to adapt, and how strongly. Free of torch, so that a mistake in it is told before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from visionlora.common.errors import UserError, did_you_mean
from visionlora.lora.adaptive_config import AdaptiveConfig
from visionlora.lora.methods import METHODS, WITHOUT_ADAPTERS

INITS = ("kaiming", "gaussian", "orthogonal", "pissa", "milora", "olora")
ALLOCATIONS = ("uniform", "structure", "importance", "shift")


@dataclass(frozen=True)
class LayerRank:
    """Rank and alpha of one layer.

    Attributes:
        r: rank.
        alpha: strength, see ``LoraConfig``.
        explicit: the user named this rank for this layer, and gets it or an error; any other rank is capped where the layer is small.
    """

    r: int
    alpha: float
    explicit: bool = False


@dataclass
class LoraConfig:
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685, §4.1): ``W + scaling · B A``.

    Args:
        r: rank of every update; capped where a layer is smaller, or where the update would have more parameters than the layer.
        alpha: strength; ``scaling = alpha / r``. ``None`` means ``2 r``, so that a sweep over ranks keeps the scaling
            (without ``use_rslora``, whose scaling grows with the root of the rank then).
        dropout: probability with which an input feature of the update (a column of ``A``) is left out in training.
            PEFT masks elements of the activation instead.
        targets: ``"auto"`` (every linear and conv layer but the head, depthwise convs excluded), ``"all"`` (depthwise too), a role
            (``attn``, ``mlp``, ``conv``, ``stem``, ``stageN``, ``stageN+``, ``last:N``), a glob pattern, a regex after ``re:``, a list
            of these, or a mapping from pattern to a rank or to ``{r: …, alpha: …}``. A pattern matches a layer's whole name,
            its last parts (``qkv``), or the block it is in (``layer4``). ``q``, ``k`` and ``v`` also name the rows of a fused projection.
        exclude: a pattern, or a list of them, of layers to leave out of ``targets``.
        method: ``lora``, ``dora`` (see ``DoraAdapter``), ``adalora`` (see ``AdaLoraAdapter``), or ``none`` (the head alone) or
            ``full`` (full fine-tuning).
        init: how the factors start, see ``lora/init.py``.
        use_rslora: ``scaling = alpha / sqrt(r)`` (Kalajdzievski 2023, arXiv 2312.03732, §3).
        freeze_a: train ``B`` alone: LoRA-FA (Zhang et al. 2023, arXiv 2308.03303, §3). The input of a linear layer is not kept for
            the backward pass then (torch's convolutions keep theirs).
        lr_ratio: learning rate of ``B`` in units of ``A``'s: LoRA+ (Hayou et al. 2024, arXiv 2402.12354, §4).
        delta_decay: weight in the loss of ``½ (‖A‖² + ‖B‖²)``, which bounds the nuclear norm of ``ΔW``; of ``A - A₀`` and ``B - B₀``
            where the start is a part of the frozen weight.
        budget: parameters for all adapters, a number or a share of the model's (``1%``), turned into ranks by ``allocate``
            instead of ``r``; ``None``: every layer gets ``r``.
        allocate: ``uniform`` (one rank for all), ``structure``, ``importance`` or ``shift``; see ``lora/budget.py``.
        allocate_batches: batches of training images that ``importance`` and ``shift`` look at.
        reference: folder of images like those of the pretraining, for ``shift`` on a model without batch-norm.
        adaptive: schedule of ``method: adalora``.
        train_head: train the classifier, and save it whole.
        train_norm: train scale and shift of the norms as well.
        train_bias: train every bias as well.

    Raises:
        UserError: a value out of range.
    """

    r: int = 4
    alpha: float | None = None
    dropout: float = 0.0
    targets: Any = "auto"
    exclude: Any = ()
    method: str = "lora"
    init: str = "kaiming"
    use_rslora: bool = False
    freeze_a: bool = False
    lr_ratio: float = 1.0
    delta_decay: float = 0.0
    budget: Any = None
    allocate: str = "uniform"
    allocate_batches: int = 8
    reference: str | None = None
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig)
    train_head: bool = True
    train_norm: bool = False
    train_bias: bool = False

    def __post_init__(self) -> None:
        _check_rank("lora.r", self.r)
        self._check_choices()
        self._check_numbers()
        self._check_method()
        self._check_targets()
        self._check_budget()

    def _check_choices(self) -> None:
        for key, known, more in (("method", METHODS, WITHOUT_ADAPTERS), ("init", INITS, ()), ("allocate", ALLOCATIONS, ())):
            value = getattr(self, key)
            if value not in more and value not in known:
                every = (*known, *more)
                raise UserError(f"lora.{key}={value} is unknown; it is one of {', '.join(every)}.{did_you_mean(str(value), every)}")

    def _check_numbers(self) -> None:
        for key, right, limits in (
            ("dropout", 0 <= self.dropout < 1, "at least 0 and below 1"),
            ("alpha", self.alpha is None or self.alpha > 0, "above 0 (or null for 2 r)"),
            ("lr_ratio", self.lr_ratio > 0, "above 0"),
            ("delta_decay", self.delta_decay >= 0, "at least 0"),
            ("allocate_batches", self.allocate_batches >= 1, "at least 1"),
        ):
            if not right:
                raise UserError(f"lora.{key}={getattr(self, key)} must be {limits}.")

    def _check_method(self) -> None:
        if self.method == "none" and not (self.train_head or self.train_norm or self.train_bias):
            raise UserError("lora.method=none with lora.train_head=false leaves nothing to train.")
        if self.method == "adalora" and (self.init != "kaiming" or self.freeze_a):
            raise UserError("lora.method=adalora has a start of its own and trains both factors; leave lora.init and lora.freeze_a out.")

    def _check_targets(self) -> None:
        self.exclude = [self.exclude] if isinstance(self.exclude, str) else self.exclude
        if not isinstance(self.exclude, list | tuple) or not all(isinstance(pattern, str) for pattern in self.exclude):
            raise UserError(f"lora.exclude={self.exclude!r} must be a pattern or a list of patterns.")
        if isinstance(self.targets, dict):
            for pattern, value in self.targets.items():
                self._rank_of(pattern, value)
            return
        patterns = [self.targets] if isinstance(self.targets, str) else self.targets
        if not isinstance(patterns, list | tuple) or not patterns or not all(isinstance(pattern, str) for pattern in patterns):
            wanted = "'auto', 'all', a role, a pattern, a list of these, or {pattern: rank}"
            raise UserError(f"lora.targets={self.targets!r} must be {wanted}.")
        for pattern in patterns:
            if pattern in ("", "None") or (" " in pattern and not pattern.startswith("re:")):
                raise UserError(
                    f"lora.targets: {pattern!r} is no name of a layer; a list is written [qkv,fc1], and lora=none adapts nothing."
                )

    def _check_budget(self) -> None:
        if self.reference is not None and self.allocate != "shift":
            raise UserError(f"lora.reference={self.reference} is read by lora.allocate=shift alone; leave it out.")
        if self.budget is None:
            if self.allocate != "uniform":
                raise UserError(f"lora.allocate={self.allocate} needs a budget to share out; set lora.budget=1%, for example.")
            return
        if not self.budget_parameters(100) > 0:
            raise UserError(f"lora.budget={self.budget} must be above 0.")
        if str(self.budget).strip().endswith("%"):
            if self.budget_parameters(100) > 100:
                raise UserError(
                    f"lora.budget={self.budget} must be at most 100%: more parameters than the model has (lora=full trains it all)."
                )
        elif self.budget_parameters(100) < 1:
            raise UserError(f"lora.budget={self.budget} is less than one parameter; a share of the model's is written with a %, as in 1%.")
        if isinstance(self.targets, dict):
            raise UserError("lora.budget chooses the ranks; lora.targets cannot name them as well: give a list of patterns.")
        if self.method in ("none", "full"):
            raise UserError(f"lora.method={self.method} has no adapters to spend lora.budget on; leave it out.")
        if self.method == "adalora":
            raise UserError("lora.method=adalora has a budget of its own, that of lora.r everywhere; leave lora.budget out.")

    def budget_parameters(self, total: int) -> float:
        """``budget`` as a number of parameters of a model that has ``total``."""
        text = str(self.budget).strip()
        try:
            return float(text[:-1]) / 100 * total if text.endswith("%") else float(text)
        except ValueError:
            raise UserError(f"lora.budget={self.budget} is neither a number of parameters nor a share like 1%.") from None

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
