"""How often the kernel has killed a process of our control group for memory, where it counts that.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst, memory.events; cgroup-v1/memory.rst, memory.oom_control.
"""

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def oom_kills(root: Path = ROOT, own_groups: Path = OWN_GROUPS) -> int | None:
    """The number so far, or None where it cannot be known."""
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            folder, name = root / "memory", "memory.oom_control"
        elif controllers == "":
            folder, name = root, "memory.events"
        else:
            continue
        # In a container the path may be the host's, and the group what is mounted at the root.
        for file in (folder / path.strip("/") / name, folder / name):
            if (n := _counted(file)) is not None:
                return n
    return None


def _counted(file: Path) -> int | None:
    try:
        fields = dict(line.split() for line in file.read_text().splitlines())
        return int(fields["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None
