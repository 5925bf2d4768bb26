"""What Q8_0 and Q4_0 share: blocks of 32 weights with one f16 scale, w = d * (q - OFFSET), q unsigned.

The panel of sixteen rows holds, for each block, [8 groups][16 rows][4 columns] u8 and then d as f32 x 16 rows.
"""

PANEL_D = 8 * 64
PANEL_BLOCK_BYTES = PANEL_D + 64
