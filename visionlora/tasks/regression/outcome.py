"""A model's numbers for one part of the data, and what they are worth."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from visionlora.common.console import console
from visionlora.tasks.absolute_errors import AbsoluteErrors
from visionlora.tasks.gallery import SHOWN, page
from visionlora.tasks.regression import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RegressionOutcome(AbsoluteErrors):
    """Outputs ``(N, outputs)``, numbers ``(N, outputs)`` in the user's units, and what can be reckoned from them."""

    tests = "The interval is a bootstrap over the images, p a paired t-test of the images' absolute errors."

    @cached_property
    def found(self) -> np.ndarray:
        """What the model says, in the user's units, ``(N, outputs)``."""
        return np.asarray(self.task.in_units(self.outputs).numpy(), np.float64)  # type: ignore[attr-defined]

    @cached_property
    def true(self) -> np.ndarray:
        """What is true, ``(N, outputs)``."""
        return self.targets.numpy().astype(np.float64)

    @cached_property
    def errors(self) -> np.ndarray:
        """Absolute error of each image, the mean over its numbers, ``(N,)``."""
        return np.asarray(np.abs(self.found - self.true).mean(1))

    def row(self, index: int) -> dict[str, Any]:
        """``true`` and ``predicted`` of the number, or of each where there are several."""
        pairs = list(zip(self.task.names, self.true[index].tolist(), self.found[index].tolist(), strict=True))
        if len(pairs) == 1:
            return {"true": pairs[0][1], "predicted": pairs[0][2], "error": pairs[0][2] - pairs[0][1]}
        return {key: value for name, true, found in pairs for key, value in ((f"true {name}", true), (f"predicted {name}", found))}

    def report(self) -> dict[str, dict[str, float]]:
        """Mean absolute error, root mean squared error, R² and mean error of each number."""
        table = {}
        for number, name in enumerate(self.task.names):
            off = self.found[:, number] - self.true[:, number]
            spread = float(np.square(self.true[:, number] - self.true[:, number].mean()).sum())
            table[name] = {
                "mae": float(np.abs(off).mean()),
                "rmse": float(np.sqrt(np.square(off).mean())),
                "r2": 1 - float(np.square(off).sum()) / spread if spread else 0.0,
                "mean_error": float(off.mean()),
            }
        return table

    def details(self) -> dict[str, Any]:
        """``numbers.json``: the report."""
        return {"numbers.json": self.report()}

    def plots(self) -> dict[str, Figure | None]:
        """``predicted`` over true, ``residuals``, and the images that are ``most_wrong``."""
        return {"predicted": plots.predicted(self), "residuals": plots.residuals(self), "most_wrong": plots.most_wrong(self)}

    def most_wrong(self, most: int = 24) -> list[int]:
        """Indices of the images with the largest errors, the largest first."""
        return [int(i) for i in np.argsort(-self.errors)[:most] if self.errors[i] > 0]

    def page(self) -> str | None:
        """The images with the largest errors."""
        chosen = self.most_wrong(min(SHOWN, max(len(self.errors) // 4, 12)))
        if not chosen:
            return None
        sections = {"Largest errors": [(i, self.words(i)) for i in chosen]}
        return page(self.split, f"The {len(chosen)} of {len(self.errors):,} images with the largest errors.", self.images, sections)

    def words(self, index: int) -> str:
        """What an image is, and what it is taken for."""
        pairs = zip(self.task.names, self.true[index], self.found[index], strict=True)
        return "; ".join(f"{name} {true:.4g}, predicted {found:.4g}" for name, true, found in pairs)

    def tell(self) -> None:
        """Print the errors of each number where there are several."""
        if len(self.task.names) == 1:
            return
        table = Table(title="Numbers", title_justify="left")
        for column in ("number", "mean absolute error", "RMSE", "R²", "mean error"):
            table.add_column(column, justify="left" if column == "number" else "right")
        for name, row in self.report().items():
            table.add_row(escape(name), *(f"{row[key]:.4g}" for key in ("mae", "rmse", "r2", "mean_error")))
        console.print(table)
