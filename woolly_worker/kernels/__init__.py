"""Arrays in, arrays out. Numba and llvmlite live only here."""
