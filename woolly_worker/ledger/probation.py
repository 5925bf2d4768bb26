"""Probation: when a job that was running as workers died is computed alone, and for how long. See docs/design/0006.

Decided at each claim from the record alone, so a job on probation may be claimed by any worker.
"""

from collections.abc import Sequence

from woolly_worker.contract.losses import LostLease

# So many tokens past the place where its last worker was lost, and twice as many with each further loss: what kills a
# little later every time is convicted in the end, too.
PROBATION_TOKENS = 32
MOST_DOUBLINGS = 20  # more tokens than any context holds


def alone_until(losses: Sequence[LostLease], n_tokens: int, *, max_crashes: int) -> int | None:
    """The number of tokens until which a job that has `n_tokens` must be computed alone; None if it need not be.

    Suspicion begins one loss before the one that convicts, at the first at least.
    """
    n_further = len(losses) - max(1, max_crashes - 1)
    if n_further < 0:
        return None
    end = losses[-1].tokens + PROBATION_TOKENS * 2 ** min(n_further, MOST_DOUBLINGS)
    return end if n_tokens < end else None
