"""The Hugging Face hub, asked for once whether it can be reached."""

from __future__ import annotations

import contextlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator


@contextlib.contextmanager
def unless_unreachable(download: bool = True) -> Iterator[None]:
    """Inside, Hugging Face's libraries take what they have kept where their hub cannot be reached: else they would retry for most of a
    minute before they give up.

    Args:
        download: whether anything may be fetched at all.
    """
    import huggingface_hub.constants as hf

    configs = [hf, *([sys.modules["datasets.config"]] if "datasets.config" in sys.modules else [])]
    before = [config.HF_HUB_OFFLINE for config in configs]
    offline = hf.HF_HUB_OFFLINE or not download or not _reachable(hf.ENDPOINT)
    try:
        for config in configs:
            config.HF_HUB_OFFLINE = offline
        yield
    finally:
        for config, was in zip(configs, before, strict=True):
            config.HF_HUB_OFFLINE = was


def _reachable(endpoint: str) -> bool:
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=float(os.environ.get("HF_HUB_ETAG_TIMEOUT", "5"))).close()
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError):
        return False
    return True
