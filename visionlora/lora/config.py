"""What to adapt, and how strongly. Free of torch, so that a mistake in it is told before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from visionlora.common.errors import UserError, did_you_mean
from visionlora.lora.methods import METHODS, WITHOUT_ADAPTERS

INITS = ("kaiming", "gaussian", "orthogonal", "pissa", "milora", "olora")
ALLOCATIONS = ("uniform", "structure", "importance", "shift")


@dataclass(frozen=True)
class LayerRank:
    """Rank and alpha of one layer; ``explicit`` if the user named this rank for this layer, who then gets it or an error."""

    r: int
    alpha: float
    explicit: bool = False


@dataclass
class AdaptiveConfig:
    """The schedule of ``method: adalora`` (Zhang et al. 2023, arXiv 2303.10512, §3.3); shares are of the optimizer's steps.

    Args:
        start: rank at the start, in units of ``r``.
        warmup: share of the training before the first rank is taken away.
        final: share of the training at its end in which the ranks stand still.
        interval: steps between two allocations.
        beta1: smoothing of the importance.
        beta2: smoothing of its uncertainty.
        orthogonality: weight of the penalty that holds the factors orthonormal, averaged over the matrices.
    """

    start: float = 1.5
    warmup: float = 0.1
    final: float = 0.4
    interval: int = 5
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality: float = 0.1

    def __post_init__(self) -> None:
        if not self.start >= 1:
            raise UserError(f"lora.adaptive.start={self.start} must be at least 1.")
        for key in ("warmup", "final", "beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise UserError(f"lora.adaptive.{key}={getattr(self, key)} must be at least 0 and below 1.")
        if self.warmup + self.final > 1:
            raise UserError("lora.adaptive: warmup and final together are more than the whole training.")
        if self.interval < 1 or self.orthogonality < 0:
            raise UserError("lora.adaptive: interval must be at least 1 and orthogonality at least 0.")


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
        method: ``lora``, ``dora`` (see ``DoraAdapter``), ``adalora`` (see ``AdaLoraAdapter``), or ``none`` (linear probe) or
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
        allocate_batches: batches of training pictures that ``importance`` and ``shift`` look at.
        reference: folder of pictures like those of the pretraining, for ``shift`` on a model without batch-norm.
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
        if self.method not in WITHOUT_ADAPTERS and self.method not in METHODS:
            methods = (*METHODS, *WITHOUT_ADAPTERS)
            raise UserError(f"lora.method={self.method} is unknown; it is one of {', '.join(methods)}.{did_you_mean(self.method, methods)}")
        for key, known in (("init", INITS), ("allocate", ALLOCATIONS)):
            value = getattr(self, key)
            if value not in known:
                raise UserError(f"lora.{key}={value} is unknown; it is one of {', '.join(known)}.{did_you_mean(str(value), known)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora.dropout={self.dropout} must be at least 0 and below 1.")
        if self.alpha is not None and not self.alpha > 0:
            raise UserError(f"lora.alpha={self.alpha} must be above 0 (or null for 2 r).")
        if not self.lr_ratio > 0:
            raise UserError(f"lora.lr_ratio={self.lr_ratio} must be above 0.")
        if not self.delta_decay >= 0:
            raise UserError(f"lora.delta_decay={self.delta_decay} must be at least 0.")
        if self.allocate_batches < 1:
            raise UserError(f"lora.allocate_batches={self.allocate_batches} must be at least 1.")
        if self.method == "none" and not (self.train_head or self.train_norm or self.train_bias):
            raise UserError("lora.method=none with lora.train_head=false leaves nothing to train.")
        if self.method == "adalora" and (self.init != "kaiming" or self.freeze_a):
            raise UserError("lora.method=adalora has a start of its own and trains both factors; leave lora.init and lora.freeze_a out.")
        self._check_targets()
        self._check_budget()

    def _check_targets(self) -> None:
        if isinstance(self.exclude, str):
            self.exclude = [self.exclude]
        if not isinstance(self.exclude, list | tuple) or not all(isinstance(pattern, str) for pattern in self.exclude):
            raise UserError(f"lora.exclude={self.exclude!r} must be a pattern or a list of patterns.")
        for pattern in [self.targets] if isinstance(self.targets, str) else self.targets if isinstance(self.targets, list | tuple) else ():
            if pattern in ("", "None") or (isinstance(pattern, str) and " " in pattern and not pattern.startswith("re:")):
                raise UserError(
                    f"lora.targets: {pattern!r} is no name of a layer; a list is written [qkv,fc1], and lora=none adapts nothing."
                )
        if isinstance(self.targets, dict):
            for pattern, value in self.targets.items():
                self._rank_of(pattern, value)
        elif not isinstance(self.targets, str) and not (
            isinstance(self.targets, list | tuple) and self.targets and all(isinstance(p, str) for p in self.targets)
        ):
            raise UserError(
                f"lora.targets={self.targets!r} must be 'auto', 'all', a role, a pattern, a list of these, or {{pattern: rank}}."
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
