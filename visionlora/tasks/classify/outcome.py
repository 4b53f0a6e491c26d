"""What an evaluation of a classifier shows: plots, the page of the mistakes, and what is printed."""

from __future__ import annotations

from matplotlib.figure import Figure

from visionlora.tasks.classify import plots
from visionlora.tasks.classify.classified import Classified
from visionlora.tasks.classify.gallery import gallery
from visionlora.tasks.classify.tables import print_classes


class ClassifyOutcome(Classified):
    """Logits and classes with all that is drawn, written and printed of them."""

    def plots(self) -> dict[str, Figure | None]:
        """``confusion``, ``reliability`` and, where something is wrong, ``most_wrong`` and ``confused``."""
        wrong = not self.right.all()
        return {
            "confusion": plots.confusion(self),
            "reliability": plots.reliability(self),
            "most_wrong": plots.most_wrong(self) if wrong else None,
            "confused": plots.confused(self) if wrong else None,
        }

    def page(self) -> str | None:
        """The wrong images, grouped by what they are and what they are taken for; ``None`` where nothing is wrong."""
        return None if self.right.all() else gallery(self)

    def tell(self) -> None:
        """Print precision, recall and F1 of the classes, and the pairs confused most."""
        print_classes(self)
