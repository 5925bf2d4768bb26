"""Meters: bounded memory, right percentiles, and None where nothing was timed."""

import random

import pytest

from woolly_worker.engine.metrics import EngineMetrics, GapHistogram, SequenceMeter


def test_percentiles_are_right_to_a_few_percent() -> None:
    rng = random.Random(1)
    gaps = [rng.lognormvariate(-4, 0.7) for _ in range(5000)]
    histogram = GapHistogram()
    for gap in gaps:
        histogram.add(gap)
    gaps.sort()
    for share in (0.01, 0.5, 0.99, 1.0):
        expected = gaps[min(int(share * len(gaps)), len(gaps) - 1)]
        assert histogram.percentile(share) == pytest.approx(expected, rel=0.03)


def test_the_histogram_is_bounded_and_takes_any_duration() -> None:
    histogram = GapHistogram()
    assert histogram.percentile(0.5) is None
    for exponent in range(-12, 6):
        for _ in range(100):
            histogram.add(10.0**exponent)
    histogram.add(0.0)
    assert len(histogram._buckets) <= 18


def test_a_sequence_that_never_ran_has_no_figures() -> None:
    assert SequenceMeter(10.0).metrics() == EngineMetrics()
    meter = SequenceMeter(10.0)
    meter.admitted(10.0, 32)
    metrics = meter.metrics()
    assert (metrics.n_cached_tokens, metrics.prefill_seconds, metrics.batch_size_mean) == (32, None, None)


def test_figures_of_a_sequence() -> None:
    meter = SequenceMeter(10.0)
    meter.admitted(10.0, 64)
    meter.computed(100, batch_size=1, cpu_seconds=0.5, kv_blocks=4)
    meter.computed(50, batch_size=3, cpu_seconds=0.25, kv_blocks=5)
    meter.sampled(12.0)
    for i in range(1, 11):
        meter.computed(1, batch_size=2, cpu_seconds=0.01, kv_blocks=5)
        meter.sampled(12.0 + i * 0.1)
    meter.admitted(13.0, 96)  # seated again after a preemption
    m = meter.metrics()
    assert (m.n_prefill_tokens, m.n_cached_tokens, m.kv_blocks, m.batch_size_max) == (150, 64, 5, 3)
    assert m.prefill_seconds == pytest.approx(2)
    assert m.prefill_tokens_per_second == pytest.approx(75)
    assert m.decode_tokens_per_second == pytest.approx(10)
    assert m.inter_token_p50_seconds == pytest.approx(0.1, rel=0.03)
    assert m.inter_token_p99_seconds == pytest.approx(0.1, rel=0.03)
    assert m.batch_size_mean == pytest.approx(24 / 12)
    assert m.cpu_seconds == pytest.approx(0.85)
