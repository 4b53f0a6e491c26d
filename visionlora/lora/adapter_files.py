"""The adapter folder as read: PEFT's two files, and the card beside them, checked before anything is built of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from visionlora.common.errors import UserError
from visionlora.common.finite import refuse_not_finite
from visionlora.common.reading import read_json
from visionlora.common.tensors import read_tensors
from visionlora.common.typed import typed
from visionlora.lora.alphas import Alphas
from visionlora.lora.config import INITS, LayerRank, LoraConfig
from visionlora.lora.init import FROM_WEIGHT

WEIGHTS, CONFIG, CARD = "adapter_model.safetensors", "adapter_config.json", "visionlora.json"
PREFIX = "base_model.model."
"""What every key in PEFT's files begins with."""
TENSORS = ("lora_A", "lora_B", "lora_magnitude_vector")
"""PEFT's names of an adapter's tensors; the last one is DoRA's."""


@dataclass(frozen=True)
class PeftConfig:
    """The fields of PEFT's ``adapter_config.json`` that are read here, under their own names."""

    peft_type: str | None = "LORA"
    lora_alpha: float | None = None
    lora_dropout: float | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool | None = None
    use_dora: bool | None = None
    lora_bias: bool | None = None
    init_lora_weights: Any = None

    def __post_init__(self) -> None:
        if not 0 <= (self.lora_dropout or 0) < 1:
            raise ValueError(f"lora_dropout={self.lora_dropout} is not at least 0 and below 1")


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter folder as read: PEFT's config (``None`` when nothing was adapted), our card, tensors by PEFT's keys."""

    folder: Path
    config: PeftConfig | None
    card: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, folder: str | Path) -> AdapterFiles:
        """Read and check a folder.

        Raises:
            UserError: it is not an adapter folder, or a file in it is damaged.
        """
        folder = Path(folder)
        if not (folder / WEIGHTS).is_file():
            raise UserError(f"{folder} is not an adapter folder: it has no {WEIGHTS}.")
        card = read_json(folder / CARD) if (folder / CARD).exists() else {}
        _check_hashes(folder, card)
        config = read_json(folder / CONFIG) if (folder / CONFIG).exists() else None
        tensors, _ = read_tensors(folder / WEIGHTS)
        for key, tensor in tensors.items():
            if ".lora_" in key and not tensor.is_floating_point():
                raise UserError(f"{folder / WEIGHTS} is damaged: {key[:80]!r} holds {tensor.dtype}, where numbers with a fraction belong.")
        refuse_not_finite(tensors.items(), str(folder / WEIGHTS))
        try:
            return cls(folder, None if config is None else typed(PeftConfig, config, more=True), card, tensors)
        except ValueError as error:
            raise UserError(f"{folder / CONFIG} is damaged: {error}.") from None

    @property
    def layers(self) -> dict[str, dict[str, Tensor]]:
        """The adapters' tensors: slot name -> PEFT's name without ``.weight`` -> tensor."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, tensor in self.tensors.items():
            if match := re.fullmatch(re.escape(PREFIX) + rf"(.+)\.({'|'.join(TENSORS)})(\.weight)?", key):
                found.setdefault(match[1].replace(".base_layer", ""), {})[match[2]] = tensor
        return found

    @property
    def others(self) -> dict[str, Tensor]:
        """The tensors that are saved whole: state-dict key -> tensor."""
        adapter = re.compile(rf".+\.({'|'.join(TENSORS)})(\.weight)?")
        wrapped = re.compile(r"\.(base_layer|modules_to_save)\.")
        return {
            wrapped.sub(".", key.removeprefix(PREFIX)): tensor
            for key, tensor in self.tensors.items()
            if not adapter.fullmatch(key) and ".original_module." not in key
        }

    def ranks(self) -> dict[str, LayerRank]:
        """Layer -> rank, and alpha as PEFT's config says.

        Raises:
            UserError: the file or the config is damaged.
        """
        config = self.config or PeftConfig()
        try:
            alphas = Alphas(config.alpha_pattern or {}, 8.0 if config.lora_alpha is None else config.lora_alpha)
        except ValueError as error:
            raise UserError(f"{self.folder / CONFIG}: alpha_pattern: {error}.") from None
        found = {}
        for layer, tensors in self.layers.items():
            if not (r := len(tensors["lora_A"]) if "lora_A" in tensors and tensors["lora_A"].ndim else 0):
                raise UserError(f"{self.folder / WEIGHTS}: layer {layer[:80]} lacks its lora_A; the file is incomplete.")
            found[layer] = LayerRank(r, alphas.of(layer), explicit=True)
        return found

    def lora_config(self) -> LoraConfig:
        """What injects an adapter that these tensors fit.

        Raises:
            UserError: PEFT made it by a method that is not known here.
        """
        if self.layers and self.config is None:
            raise UserError(f"{self.folder} has no {CONFIG}, which says how strong the adapter is; it is incomplete.")
        config = self.config or PeftConfig()
        init = config.init_lora_weights
        if config.peft_type != "LORA":
            raise UserError(f"{self.folder / CONFIG}: this is a {config.peft_type} adapter of PEFT; only LORA can be read.")
        if isinstance(init, str) and init not in (*INITS, "eva"):
            raise UserError(f"{self.folder / CONFIG}: its base was edited by init_lora_weights={init}; convert it to a plain LoRA first.")
        if config.lora_bias:
            raise UserError(f"{self.folder / CONFIG}: PEFT's lora_bias=true cannot be read.")
        return LoraConfig(
            dropout=config.lora_dropout or 0.0,
            use_rslora=bool(config.use_rslora),
            method="dora" if config.use_dora else "lora",
            init=init if isinstance(init, str) and init in FROM_WEIGHT else "kaiming",
        )


def _check_hashes(folder: Path, card: Mapping[str, Any]) -> None:
    """See that PEFT's files are those that the card was written with, where it says so."""
    known = card.get("files", {})
    for name in (WEIGHTS, CONFIG) if known else ():
        path = folder / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        if not isinstance(known, dict) or found != known.get(name):
            raise UserError(
                f"{path} is not the file that {CARD} tells of (its sha256 differs): it was damaged, replaced or removed."
                f" If that was on purpose, remove 'files' and 'sha256' from {CARD}."
            )
