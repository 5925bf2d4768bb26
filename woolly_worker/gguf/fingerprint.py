"""What file this is, without reading all of it: a job must not go on with other weights than it began with.

It covers the size, everything before the tensors (metadata, vocabulary, names, types and shapes) and some bytes of
every tensor. Two trainings of the same model differ in each of those; a file that was edited by hand in a few places
between them is not told apart, which is why this is no checksum.
"""

import hashlib
import os

from woolly_worker.gguf.reader import FileState, GGUFFile

SAMPLE_BYTES = 64
SAMPLES_PER_TENSOR = 4


def fingerprint(file: GGUFFile) -> str:
    """16 hexadecimal digits. Touches about four pages per tensor."""
    digest = hashlib.sha256(str(file.n_bytes).encode())
    first = min((info.offset for info in file.tensors.values()), default=file.n_bytes)
    digest.update(file.data[:first].tobytes())
    for name in file.tensors:
        data = file.tensor_bytes(name)
        last = max(0, data.size - SAMPLE_BYTES)
        for sample in range(SAMPLES_PER_TENSOR):
            at = last * sample // (SAMPLES_PER_TENSOR - 1)
            digest.update(data[at : at + SAMPLE_BYTES].tobytes())
    return digest.hexdigest()[:16]


class Original:
    """What a mapped file held when this was made, and whether it still does."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        self._state = file.state
        self.fingerprint = fingerprint(file)

    def is_overwritten(self) -> bool:
        """Whether somebody wrote other weights into the file. A new file under the same name is not meant: who has the
        old one open keeps it. Neither is a new time alone, which `touch` and a restored backup leave."""
        try:
            now = FileState.of(os.stat(self._file.path))
        except OSError:  # gone, or its folder is: the mapping stays
            return False
        if (now.device, now.inode) != (self._state.device, self._state.inode) or now == self._state:
            return False
        # The mapping is shared: it shows what is on the disk. Of a shorter file it must not be read.
        if now.n_bytes != self._file.state.n_bytes or fingerprint(self._file) != self.fingerprint:
            return True
        self._state = now
        return False
