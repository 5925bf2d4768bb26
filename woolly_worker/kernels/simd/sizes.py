"""Numbers that kernels and verbs share."""

from woolly_worker.kernels.cpu import CPU

# A register of the matrix unit.
MATRIX_ROWS = 16
MATRIX_ROW_BYTES = 64
MATRIX_BYTES = MATRIX_ROWS * MATRIX_ROW_BYTES

# Tokens whose sums for sixteen rows stay in registers, and are multiplied together.
TILE_TOKENS = 8 if CPU.has_avx512 else 4

# Whether products of bytes are added up in 16 bits first, see bytes.py.
IN_SHORTS = CPU.level == "avx2"

# A tile of products of floats: rows, tokens, and how many of the sixteen lanes are treated together. With the sums, a
# vector of each row and one of a token stay in registers, or one of a row and one of each token: 24 + 4 + 1 of 32, or
# 12 + 1 + 3 of 16.
PRODUCT_ROWS = 4
PRODUCT_TOKENS, PRODUCT_LANES = (6, 16) if CPU.has_avx512 else (3, 8)
