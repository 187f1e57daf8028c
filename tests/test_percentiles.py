from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

import potion_fast as pf
from helpers.toys import batches, net, samples
from potion_fast.errors import ImportanceError, SearchError
from potion_fast.percentiles import percentile_of, schedule


@pytest.mark.parametrize(("forget", "first", "steps_to_99"), [(1, 99.99992, 105), (10, 99.9992, 81), (100, 99.992, 57)])
def test_the_schedule_is_that_of_the_public_code(forget, first, steps_to_99):
    """Recomputed here as it is written there: s = share / 25, s ← 1.1 s, p = 100 − ln(1 + 100 s) in NumPy's float64."""
    share = forget / 50_000
    s, want = share / 25, []
    for _ in range(200):
        want.append((s, float(100 - np.log(1 + 100 * np.float64(s)))))
        s = s * 1.1
    got = list(islice(schedule(share, 1 / 25, 1.1), 200))
    assert got == want
    assert got[0][1] == pytest.approx(first, abs=5e-5)
    assert next(k for k, (_, p) in enumerate(got) if p <= 99) == steps_to_99


def test_the_papers_start_multiplies():
    assert next(schedule(0.002, 25.0, 1.1))[0] == 0.002 * 25


def test_the_schedule_ends_where_percentiles_do():
    assert percentile_of(np.exp(100)) < 0
    assert all(p >= 0 for _, p in islice(schedule(1.0, 1e30, 1e10), 100))


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_an_error_at_once(share):
    with pytest.raises(SearchError, match="share"):
        schedule(share, 1 / 25, 1.1)


def test_thresholds_are_numpys_percentiles_of_the_ratios():
    model = net()
    forget, retain = (
        pf.importance(model, batches(*samples(3), 3), group_size=1),
        pf.importance(model, batches(*samples(20, 2), 5), group_size=1),
    )
    percentiles = [0, 12.5, 50, 90, 99.3, 99.99, 100]
    got = pf.thresholds(forget, retain, percentiles)
    with np.errstate(all="ignore"):
        ratio = forget.mean.numpy() / retain.mean.numpy()
    want = np.nanpercentile(ratio[np.isfinite(ratio)], np.float64(percentiles)).astype(np.float32)
    assert got.dtype == torch.float32 and got.numpy().tobytes() == want.tobytes()


@pytest.mark.parametrize("p", [-0.1, 100.1, float("nan")])
def test_a_percentile_out_of_range_is_an_error(p):
    importance = pf.importance(net(), batches(*samples(2), 2), group_size=1)
    with pytest.raises(SearchError, match="percentiles lie in"):
        pf.thresholds(importance, importance, [50.0, p])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_means_are_kept_until_the_sums_are_written_to(dtype):
    importance = pf.importance(net(dtype=dtype), batches(*samples(6, dtype=dtype), 2), group_size=1, dtype=dtype)
    mean = importance.mean32
    assert mean.dtype == torch.float32 and importance.mean32 is mean
    assert torch.equal(mean, (importance.sums / importance.terms).float())
    assert (importance.mean is mean) == (dtype == torch.float32)
    assert importance.unusable is None
    importance.sums[0] = 7
    assert importance.mean32[0] == torch.tensor(7 / importance.terms)
    importance.sums[-1] = torch.nan
    assert importance.unusable == list(importance.shapes)[-1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_importances_that_are_negative_or_not_finite_are_named(value):
    importance = pf.importance(net(), batches(*samples(2), 2), group_size=1)
    other = pf.importance(net(), batches(*samples(2), 2), group_size=1)
    other.sums[40] = value
    with pytest.raises(ImportanceError, match=r"retain importances of parameter 'conv\.weight'"):
        pf.thresholds(importance, other, [50.0])
