"""HTTP in, HTTP out. Never touches arrays, models or Numba."""
