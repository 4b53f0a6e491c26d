"""The interface of tasks: what every task has, and that the rest of the package knows nothing of one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

from visionlora.common.errors import UserError
from visionlora.tasks.measure import Measure
from visionlora.tasks.metrics import Evaluation
from visionlora.tasks.placed import PlacedTask
from visionlora.tasks.registry import TASKS, check_section, kind_of, make_task
from visionlora.tasks.task import Task
from visionlora.tasks.words import higher_is_better, in_words, is_share, label, measure_of

PACKAGE = Path(__file__).parents[2] / "visionlora"


class Errors(Task):
    """A task that is known to this file alone."""

    name = "errors"
    measures = (Measure("off", "mean error", share=False, higher=False), Measure("top1", "first of one's own"))


def test_no_other_part_knows_of_classification() -> None:
    known = re.compile(r"top1|top5|(?<!binary_)cross_entropy|CrossEntropy|Multiclass")
    found = [
        f"{path.relative_to(PACKAGE)}: {word}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if not {"classify", "ordinal", "segment"} & set(path.parts)  # the tasks of one class an image, or a pixel
        for word in words_of_code(path)
        if known.search(word)
    ]
    assert not found
    assert any(known.search(word) for word in words_of_code(PACKAGE / "tasks/classify/task.py"))  # it would be seen


def words_of_code(path: Path) -> list[str]:
    """Names and texts of a module; not its comments, and not texts that are a statement by themselves, as docstrings are."""
    tree = ast.parse(path.read_text())
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            found.append(node.value)
        found += [getattr(node, name) for name in ("id", "attr", "arg", "name") if isinstance(getattr(node, name, None), str)]
    return found


@pytest.mark.parametrize("name", TASKS.built_in)
def test_what_every_task_has(name: str) -> None:
    kind = TASKS[name]
    assert kind.name == name
    assert kind.lead() is kind.measures[0]
    assert len({measure.key for measure in kind.measures}) == len(kind.measures)
    task = make_task(name, ["a", "b"])
    assert task.section() == {"name": name}
    assert {*task.metrics()} <= {measure.key for measure in kind.measures}
    assert task.outputs == 2
    assert task.unreadable("x.png", "empty").error == "empty"
    if isinstance(task, PlacedTask):
        outputs = torch.zeros(1, 2, 8, 8) if name == "segment" else torch.zeros(1, 5, 10)
        (found,) = task.predict_placed(["x.png"], outputs, 3, [(8, 8)], 8)
    else:
        (found,) = task.predict(["x.png"], torch.zeros(1, 2), 3)
    assert [*found.row(3)] == [*task.unreadable("x.png", "empty").row(3)]  # a table has the same columns in every row
    assert len(found.cells()) == len(kind.columns)


@pytest.mark.parametrize("name", TASKS.built_in)
def test_another_threshold_is_told_from(name: str) -> None:
    task = make_task(name, ["a", "b"])
    if name == "multilabel":
        task.tell_from(0.9)
        assert task.options.thresholds == [0.9]
        (found,) = task.predict(["x.png"], torch.tensor([[2.0, 3.0]]), 3)  # 0.88 and 0.95
        assert found.row(3)["labels"] == "b"
    elif name == "detect":
        task.tell_from(0.9)
        assert task.options.threshold == 0.9
    else:
        with pytest.raises(UserError, match=f"threshold=0.9 is for tasks that have one, .*; task={name} has none"):
            task.tell_from(0.9)


def test_the_measures_of_a_task_come_first() -> None:
    assert label("val/top1") == "validation top-1 accuracy"
    assert label("val/top1", Errors) == "validation first of one's own"
    assert (in_words("test/off", 0.25, Errors), in_words("test/top1", 0.25)) == ("0.250", "25.0%")
    assert (higher_is_better("val/off", Errors), higher_is_better("val/top1"), higher_is_better("seconds/fit")) == (False, True, False)
    assert not is_share("test/off", Errors)
    assert measure_of("params/total") is None
    assert label("no/such") == "no/such"


def test_a_task_without_a_probe_says_so() -> None:
    import numpy as np

    with pytest.raises(UserError, match="task=errors has no probe"):
        Errors(["off"]).probe(np.zeros((2, 3)), np.zeros(2))


@pytest.mark.parametrize(
    ("section", "said"),
    [({"name": "classfy"}, "Did you mean 'classify'"), ({}, "needs a name"), ({"name": "classify", "loss": "mse"}, "task.loss")],
)
def test_a_wrong_section_is_a_sentence(section: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        check_section(section)


def test_a_run_of_an_earlier_version_is_a_classifier() -> None:
    assert kind_of(None) is kind_of({}) is kind_of("classify")


def test_the_loss_of_an_evaluation_is_the_mean_over_all_images() -> None:
    evaluation = Evaluation(make_task("classify", ["a", "b", "c"]), "val")
    outputs, targets = torch.randn(7, 3), torch.arange(7) % 3
    for part in (slice(0, 4), slice(4, 7)):
        evaluation.update(outputs[part], targets[part])
    assert float(evaluation.compute()["val/loss"]) == pytest.approx(float(torch.nn.functional.cross_entropy(outputs, targets)), rel=1e-5)
