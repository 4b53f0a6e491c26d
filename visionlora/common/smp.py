"""segmentation_models_pytorch, which is asked for where it is used only."""

from __future__ import annotations

from typing import Any

from visionlora.common.errors import UserError


def segmentation_models(wanted: str) -> Any:
    """The package.

    Args:
        wanted: the key that needs it, for the sentence.

    Raises:
        UserError: it is not installed.
    """
    try:
        import segmentation_models_pytorch
    except ImportError:
        raise UserError(f"{wanted} needs segmentation_models_pytorch: pip install 'visionlora[vision]'.") from None
    return segmentation_models_pytorch
