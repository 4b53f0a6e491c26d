"""The scale of features that probes are fitted to."""

from __future__ import annotations

import numpy as np

from visionlora.tasks.features import standardised


def test_what_hardly_moves_stays_small_and_the_rest_is_of_one_size() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((200, 3)) * [1e-6, 1.0, 2.0] + [5.0, -3.0, 0.0]
    rows, mean, scale = standardised(features)
    np.testing.assert_allclose(rows * scale + mean, features, atol=1e-9)
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-9)
    still, small, large = rows.std(0)
    assert still < 1e-5
    assert small < large < 1.5


def test_features_that_do_not_move_at_all() -> None:
    rows, _, _ = standardised(np.ones((4, 2)))
    assert not rows.any()
