"""What the results of a run amount to, for tasks whose leading measure has no interval of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from visionlora.common.text import counted
from visionlora.tasks.words import in_words

if TYPE_CHECKING:
    from visionlora.tasks.task import Task


def without_test(task: type[Task], results: Mapping[str, Any]) -> str:
    """What is said where there is no test part."""
    lead = task.lead()
    if (found := results.get(f"val/{lead.key}")) is None:
        return "There is neither a test nor a validation part, so nothing says how good the model is."
    words = in_words(lead.key, found, task)
    return f"There is no test part: the {words} of the validation part has chosen the epoch, and flatters."


def compared(task: type[Task], results: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the leading measure is better on the test part than before, by however little, and that in a sentence."""
    lead, images = task.lead(), int(results.get("images/test", 0))
    before, after = results.get(f"test_before/{lead.key}"), results.get(f"test/{lead.key}")
    if not images or after is None:
        return True, without_test(task, results)
    name, on = lead.words[:1].upper() + lead.words[1:], f"on {counted(images, 'test image')}"
    if before is None:
        return True, f"{name} is {in_words(lead.key, after, task)} {on}."
    better = (after > before) if lead.higher else (after < before)
    by = f" ({task.baseline_words})" if task.baseline_words else ""
    course = f"{name} went from {in_words(lead.key, before, task)}{by} to {in_words(lead.key, after, task)} {on}"
    return better, f"{course}: {'better' if better else 'no better'} than before."
