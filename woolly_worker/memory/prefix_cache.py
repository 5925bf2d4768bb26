"""PrefixIndex: which KV block already holds the keys and values of a given run of tokens.

It is a tree: a full block is known by the node before it and its own token ids. The ids themselves are the key, and a
node's number is never used twice, so neither a hash collision nor a reused block can hand out foreign content. It
counts no references and frees nothing: `kv_cache.py` does.
"""

from collections.abc import Iterator

ROOT = 0  # the node before the first block of every sequence


class PrefixIndex:
    def __init__(self) -> None:
        self._nodes: dict[tuple[int, tuple[int, ...]], tuple[int, int]] = {}  # (parent, ids) -> (block, node)
        self._key_of_block: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._last_node = ROOT

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, block: int) -> bool:
        return block in self._key_of_block

    def find(self, parent: int, ids: tuple[int, ...]) -> tuple[int, int] | None:
        """(block, node) of the block with these ids behind `parent`."""
        return self._nodes.get((parent, ids))

    def insert(self, parent: int, ids: tuple[int, ...], block: int) -> int:
        """Register a block that is in the index under no other ids; returns its new node."""
        key = (parent, ids)
        if key in self._nodes or block in self._key_of_block:
            raise ValueError(f"KV block {block} or its content is already in the prefix index")
        self._last_node += 1
        self._nodes[key] = (block, self._last_node)
        self._key_of_block[block] = key
        return self._last_node

    def remove(self, block: int) -> None:
        del self._nodes[self._key_of_block.pop(block)]

    def items(self) -> Iterator[tuple[int, int, int]]:
        """(parent, node, block) of every entry, for invariant checks."""
        for (parent, _), (block, node) in self._nodes.items():
            yield parent, node, block
