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

# A tile of products of floats.
PRODUCT_ROWS, PRODUCT_TOKENS = (4, 6) if CPU.has_avx512 else (2, 3)
