from __future__ import annotations

import numpy as np
import torch

from pipeline.metrics import correlation
from pipeline.training.running import RunningCorrelation


def running(first: torch.Tensor, second: torch.Tensor, cuts: tuple[int, ...]) -> np.ndarray:
    found = RunningCorrelation()
    for a, b in zip(first.tensor_split(cuts), second.tensor_split(cuts), strict=True):
        found.add(a, b)
    return found.value()


def test_batches_joined_give_the_correlation_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    first = 1000 + torch.randn(20, 6, 7, generator=generator)  # a large mean must not cost digits
    second = 0.3 * first + torch.randn(20, 6, 7, generator=generator)
    whole = [x.transpose(0, 1).flatten(1).numpy() for x in (first, second)]
    np.testing.assert_allclose(running(first, second, (3, 4, 11)), correlation(*whole), rtol=1e-9)
    images = running(first[..., 0], second[..., 0], (5,))
    np.testing.assert_allclose(images, correlation(first[..., 0].T.numpy(), second[..., 0].T.numpy()), rtol=1e-9)


def test_it_is_undefined_where_the_whole_is() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(9, 6, generator=generator), torch.randn(9, 6, generator=generator)
    first[:, 1] = 0
    second[:, 2] = 5 + 1e-7 * second[:, 2]
    first[3, 3] = torch.nan
    second[8, 4] = torch.inf
    found = running(first, second, (4,))
    assert np.isnan(found).tolist() == [False, True, True, True, True, False]
    np.testing.assert_allclose(found, correlation(first.T.numpy(), second.T.numpy()), rtol=1e-9)


def test_one_sample_has_no_correlation() -> None:
    assert np.isnan(running(torch.ones(1, 3), torch.ones(1, 3), ())).all()
