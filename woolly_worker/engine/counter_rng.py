"""Random numbers without state: a number for each (seed, position), whoever asks, in whatever order.

A sequence that moves to another worker draws the same numbers there. It is SplitMix64 with a hashed seed: without the
hash, two seeds that differ by the increment would give the same numbers one position apart.

Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"; constants of Vigna's splitmix64.c.
"""

_MASK = 2**64 - 1
_INCREMENT = 0x9E3779B97F4A7C15


def mix64(z: int) -> int:
    """SplitMix64's finaliser: a bijection of 64-bit numbers that scatters every bit."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def uniform(seed: int, position: int) -> float:
    """A number in (0, 1], a multiple of 2**-53. Never 0, so that a choice of no probability is never drawn."""
    key = mix64((seed + _INCREMENT) & _MASK)
    return ((mix64((key + (position + 1) * _INCREMENT) & _MASK) >> 11) + 1) * 2.0**-53
