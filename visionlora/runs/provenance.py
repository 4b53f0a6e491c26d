"""With what a run was made, as keys of ``results.json``: versions, machine, settings of determinism; and in what two runs differ there."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionlora.common.versions import commit, package_version

if TYPE_CHECKING:
    from visionlora.data.images import Images

PACKAGES = ("visionlora", "torch", "torchvision", "timm", "lightning")
PREFIXES = ("versions/", "machine/", "determinism/", "fingerprint/")
BESIDE = ("threads", "precision")
"""Keys without a prefix that belong to them."""
NO_MATTER = ("machine/os", "machine/memory_gib")
"""Keys that are written down for the reader; the figures do not depend on them."""


def provenance() -> dict[str, Any]:
    """Versions, machine and settings of determinism of this process, as they are now."""
    import torch  # not above: the report reads what is written here without torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    versions = {f"versions/{name}": found for name in PACKAGES if (found := package_version(name)) is not None}
    return {
        **versions,
        "versions/torch": torch.__version__,  # with its build, such as +cu130
        "versions/python": platform.python_version(),
        **commit(Path(__file__).parents[2]),
        "machine/os": platform.platform(),
        "machine/cpu": f"{_cpu()}, {torch.backends.cpu.get_cpu_capability()}",
        "machine/cores": os.cpu_count() or 1,
        "machine/accelerators": ", ".join(names) or ("Apple MPS" if torch.backends.mps.is_available() else "none"),
        **_memory(),
        "determinism/algorithms": "warn" if torch.is_deterministic_algorithms_warn_only_enabled() else _deterministic(),
        "determinism/cudnn_benchmark": torch.backends.cudnn.benchmark,
        "determinism/matmul_precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
    }


def fingerprints(base: str, parts: Mapping[str, Images]) -> dict[str, str]:
    """Fingerprints of the backbone's weights, and of the images by their names and classes in each part. The images are not opened."""
    digest = hashlib.sha256()
    for part in sorted(parts):
        digest.update(repr((part, sorted(zip(parts[part].names, parts[part].labels, strict=True)))).encode())
    return {"fingerprint/base": base[:16], "fingerprint/pictures": digest.hexdigest()[:16]}


def is_provenance(key: str) -> bool:
    """Whether a key of ``results.json`` says with what the run was made, and is no figure of it."""
    return key.startswith(PREFIXES) or key in BESIDE


def is_about_the_machine(key: str) -> bool:
    """Whether a key says something of versions, machine or settings that figures, seconds and memory may depend on."""
    return is_provenance(key) and key not in NO_MATTER and not key.startswith("fingerprint/")


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What the figures may depend on and is not as it was, as ``KEY THEN -> NOW``; what one side does not say is left out."""
    keys = [key for key in now if is_provenance(key) and key in then and key not in NO_MATTER]
    return [f"{key} {then[key]} -> {now[key]}" for key in keys if then[key] != now[key]]


def _deterministic() -> bool:
    import torch

    return torch.are_deterministic_algorithms_enabled()


def _cpu() -> str:
    try:  # Linux; the platform module knows the kind of processor alone there
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> dict[str, float]:
    try:
        return {"machine/memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)}
    except (ValueError, OSError, AttributeError):  # Windows
        return {}
