"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path


def available_memory() -> int | None:
    """Give the bytes that this process may still take: of the machine, of its control group and of its own limits; None where unknown."""
    found = [*_left_on_machine(), *_left_in_group(), *_left_to_process()]
    return max(min(found), 0) if found else None


def _left_on_machine() -> list[int]:
    n_bytes = _proc("/proc/meminfo").get("MemAvailable")
    return [] if n_bytes is None else [n_bytes]


def _left_in_group() -> list[int]:
    group = Path("/sys/fs/cgroup")
    try:
        allowed = (group / "memory.max").read_text().strip()
        return [] if allowed == "max" else [int(allowed) - int((group / "memory.current").read_text())]
    except (OSError, ValueError):
        return []


def _left_to_process() -> list[int]:
    try:
        import resource  # not on every system
    except ImportError:
        return []
    held = _proc("/proc/self/status")
    limits = {"VmData": resource.RLIMIT_DATA, "VmSize": resource.RLIMIT_AS}
    soft = {name: resource.getrlimit(limit)[0] for name, limit in limits.items()}
    return [n - held.get(name, 0) for name, n in soft.items() if n != resource.RLIM_INFINITY]


def _proc(path: str) -> dict[str, int]:
    """Read the sizes in a file of Linux' /proc, in bytes; elsewhere there are none."""
    try:
        lines = [line.split() for line in Path(path).read_text().splitlines()]
    except OSError:
        return {}
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if line[-1] == "kB"}
