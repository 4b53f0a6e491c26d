"""What is reckoned of numbers, against scikit-learn and plain formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from visionlora import Images, UserError
from visionlora.tasks.metrics import Evaluation
from visionlora.tasks.regression.outcome import RegressionOutcome
from visionlora.tasks.regression.probe import ridge
from visionlora.tasks.regression.task import Regression, RegressionOptions


def task(outputs: int, **options: Any) -> Regression:
    return Regression([f"x{number}" for number in range(outputs)], RegressionOptions(**options))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("log", [False, True])
def test_metrics_are_scikit_learns_in_the_users_units(outputs: int, log: bool) -> None:
    random = np.random.default_rng(0)
    true = random.uniform(0, 5000, (50, outputs))
    one = task(outputs, log=log)
    one.look_at([tuple(row) for row in true])
    targets = torch.from_numpy(true).float()
    outputs_ = one.scaled(targets) + 0.1 * torch.from_numpy(random.standard_normal((50, outputs))).float()
    evaluation = Evaluation(one, "test")
    for start in range(0, 50, 16):
        evaluation.update(outputs_[start : start + 16], targets[start : start + 16])
    found = {key: float(value) for key, value in evaluation.compute().items()}
    said = one.in_units(outputs_).numpy()
    assert found["test/mae"] == pytest.approx(mean_absolute_error(true, said), rel=1e-4)
    assert found["test/r2"] == pytest.approx(r2_score(true, said), rel=1e-4)
    if outputs == 1:
        assert found["test/rmse"] == pytest.approx(root_mean_squared_error(true, said), rel=1e-4)


@pytest.mark.parametrize("log", [False, True])
def test_scaled_and_back_is_the_same(log: bool) -> None:
    one = task(2, log=log)
    numbers = torch.tensor([[0.0, 1e5], [3.0, 2e5], [10.0, 4e5]])
    one.look_at([tuple(row) for row in numbers.tolist()])
    scaled = one.scaled(numbers)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(one.in_units(scaled), numbers, rtol=1e-3, atol=1e-3)


def test_numbers_that_are_all_the_same_are_told_and_no_division_by_zero(capsys: pytest.CaptureFixture[str]) -> None:
    one = task(1)
    one.look_at([(3.0,), (3.0,)])
    assert capsys.readouterr().err == "'x0' is the same in all 2 training images: there is nothing to learn.\n"
    assert one.options.scale == [1.0]
    evaluation = Evaluation(one, "val")
    evaluation.update(torch.zeros(1, 1), torch.tensor([[3.0]]))
    assert all(torch.isfinite(value) for value in evaluation.compute().values())


def test_bounds_hold_for_what_is_said() -> None:
    one = task(1, low=0.0, high=10.0, center=[5.0], scale=[10.0])
    assert one.in_units(torch.tensor([[-3.0], [0.0], [3.0]])).flatten().tolist() == [0.0, 5.0, 10.0]


def test_the_probe_is_the_best_line() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((200, 5)) * [1, 2, 4, 1, 1] + 7
    numbers = features[:, :2] @ np.array([[1.0, 0.0], [0.2, -0.3]]) + 2
    weight, bias = ridge(features, numbers)
    np.testing.assert_allclose(features @ weight.T + bias, numbers, atol=0.05)


def test_outcome() -> None:
    one = task(1, center=[10.0], scale=[2.0])
    true = torch.arange(100.0)[:, None]
    images = Images([(0.0,)] * 100, [str(number) for number in range(100)])
    noise = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    found, worse = (RegressionOutcome(one, "test", (true + size * noise - 10) / 2, true, images) for size in (1, 3))
    low, high = found.interval()
    assert low < found.metrics()["test/mae"] < high
    assert found.p_against(worse) < 1e-6
    assert found.most_wrong(1) == [int(noise.abs().argmax())]
    assert found.row(3)["true"] == 3.0


@pytest.mark.parametrize(
    ("options", "labels", "message"),
    [
        ({"log": True}, [(-1.0,), (2.0,)], "task.log=true is for numbers from 0 up; one of the training part is -1"),
        ({}, [0, 1], "the data has classes"),
    ],
)
def test_labels_that_it_cannot_take(options: dict[str, Any], labels: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task(1, **options).look_at(labels)


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(UserError, match="must be below"):
        RegressionOptions(low=2, high=1)
    with pytest.raises(UserError, match=r"task\.scale has 2 values for 1 numbers"):
        task(1, scale=[1.0, 2.0])
