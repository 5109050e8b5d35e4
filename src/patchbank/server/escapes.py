"""How many defects pass as OK: what a random sample of OK parts says of all of them."""

from __future__ import annotations

import math

_STEPS = 60  # of halving: a float has no more


def upper_bound(sampled: int, defects: int, confidence: float) -> float:
    """The largest share of defects (0..1) that the sample leaves room for, with this confidence (Clopper and Pearson
    1934, one-sided). sampled: OK parts, chosen by chance, that people have judged; defects: among them. Raises
    ValueError for impossible numbers."""
    if not 0 <= defects <= sampled or not 0 < confidence < 1:
        raise ValueError(f"expected 0 <= defects <= sampled and 0 < confidence < 1; got {defects}, {sampled}")
    if defects == sampled:
        return 1.0
    low, high = defects / sampled, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(defects, sampled, middle) > 1 - confidence else (low, middle)
    return high


def at_most(k: int, n: int, p: float) -> float:
    """The chance of at most k of n, each with chance p, 0 < p < 1."""
    log_p, log_q, whole = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    return math.fsum(
        math.exp(whole - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_p + (n - i) * log_q)
        for i in range(k + 1)
    )
