"""What this CPU can do, decided once, before Numba is imported.

Kernels are written in vectors of a fixed width, so every level computes the same bits; a level only says which
instructions carry them. `WOOLLY_CPU` forces one: the tests run all that this machine can execute.
"""

import ctypes
import os
import platform
import sys
from dataclasses import dataclass

from llvmlite import binding as llvm

_ARM_LEVELS = ("generic", "dotprod", "i8mm")
LEVELS = ("generic", "avx2", "avxvnni", "avx512vnni", "amx", *_ARM_LEVELS[1:])
_IS_X86 = platform.machine() in ("x86_64", "AMD64")
_IS_ARM = platform.machine() in ("aarch64", "arm64")

# An LLVM CPU model for each forced level: the oldest one that has everything the level needs.
_MODEL = {
    "generic": "x86-64" if _IS_X86 else "generic",
    "avx2": "haswell",
    "avxvnni": "haswell",
    "avx512vnni": "cascadelake",
    "amx": "sapphirerapids",
    "dotprod": "neoverse-n1",
    "i8mm": "neoverse-v1",
}
# fast-dpwssd: LLVM would make a chain of `vpdpwssd` two instructions each, for their latency. Where there is a matrix
# unit, kernels are bound by the number of instructions.
_EXTRA_FEATURES = {"avxvnni": "+avxvnni", "amx": "+fast-dpwssd"}


@dataclass(frozen=True, slots=True)
class Cpu:
    """The target that kernels are compiled for."""

    level: str  # one of LEVELS
    model: str  # LLVM's name of it
    features: str  # LLVM feature string; empty means the model's own
    is_amd: bool = False

    @property
    def has_avx512(self) -> bool:
        """Whether vectors of 64 bytes, and products of bytes in them, are instructions."""
        return self.level in ("avx512vnni", "amx")

    @property
    def has_matrix_unit(self) -> bool:
        """Whether there are products of 16 x 64 by 64 x 16 bytes, see simd/matrix_unit.py."""
        return self.level == "amx"

    @property
    def asks_ahead(self) -> bool:
        """Whether weights come faster from memory where single lines of them are asked for before they are read: with
        Intel's vectors (note 0009) and on Zen 3 (note 0010), but not on Zen 4 (note 0003)."""
        return self.level in ("avx2", "avxvnni", "amx") or (self.level == "avx512vnni" and not self.is_amd)

    @property
    def tag(self) -> str:
        """A short name for cache folders and logs."""
        return f"{platform.machine()}-{self.model}-{self.level}"


def _host_features() -> dict[str, bool]:
    return dict(llvm.get_host_cpu_features())


def _is_amd() -> bool:
    """By LLVM's name of the CPU. One that it does not know yet is taken for another maker's, which costs some speed."""
    return bool(llvm.get_host_cpu_name().startswith("znver"))


_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18  # Linux, arch/x86/include/uapi/asm/prctl.h


def _matrix_unit_allowed() -> bool:
    """Ask for the matrix unit's registers, for this process and its children. Linux wants to be asked, because they add
    8 KB to what it saves at a switch of threads."""
    if sys.platform != "linux":
        return False
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0


def host_level() -> str:
    """The best level that this machine can execute."""
    has = _host_features().get
    if _IS_ARM and has("dotprod"):
        return "i8mm" if has("i8mm") else "dotprod"
    if not _IS_X86:
        return "generic"
    if has("avx512vnni") and has("avx512bw") and has("avx512vl"):
        return "amx" if has("amx-tile") and has("amx-int8") and _matrix_unit_allowed() else "avx512vnni"
    if has("avx2") and has("fma") and has("f16c"):
        return "avxvnni" if has("avxvnni") else "avx2"
    return "generic"


def executable_levels() -> tuple[str, ...]:
    """Every level that this machine can execute, the plainest first. AVX-VNNI stands beside AVX-512, not below."""
    best = host_level()
    if best in _ARM_LEVELS:
        return _ARM_LEVELS[: _ARM_LEVELS.index(best) + 1]
    if best in ("avx512vnni", "amx"):
        known = LEVELS[: LEVELS.index(best) + 1]
        return tuple(level for level in known if level != "avxvnni" or _host_features().get("avxvnni"))
    return LEVELS[: LEVELS.index(best) + 1]


def _decide() -> Cpu:
    forced = os.environ.get("WOOLLY_CPU")
    if forced:
        if forced not in executable_levels():
            raise SystemExit(f"WOOLLY_CPU={forced}: this machine can execute {', '.join(executable_levels())}")
        if _IS_X86 or _IS_ARM:
            return Cpu(forced, _MODEL[forced], _EXTRA_FEATURES.get(forced, ""), _is_amd())
    if "numba" in sys.modules and os.environ.get("NUMBA_CPU_NAME"):
        # Numba has read its own settings already; follow them rather than disagree in silence.
        return Cpu("generic", os.environ["NUMBA_CPU_NAME"], os.environ.get("NUMBA_CPU_FEATURES", ""))
    level, features = host_level(), llvm.get_host_cpu_features().flatten()
    features = ",".join([features, *filter(None, [_EXTRA_FEATURES.get(level)])])
    return Cpu(level, llvm.get_host_cpu_name(), features, _is_amd())


CPU = _decide()


def allowed_cpus() -> int:
    """How many CPUs this process may use: its affinity, bounded by the cgroup's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: the affinity alone decides
    return max(1, count)
