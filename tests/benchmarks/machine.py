"""What all benchmarks ask of the machine, and the bars in which two of them show their results."""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from course_lib import environment, plotting


def processor() -> str:
    """The processor's name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def peak_mib(forget: bool = False) -> float:
    """As `environment.peak_resident_mib`, on systems that tell it."""
    return environment.peak_resident_mib(forget) or math.nan


def bars(
    groups: Mapping[str, Mapping[str, tuple[float, str]]],
    labels: Mapping[str, str],
    hatches: Sequence[str],
    xlabel: str,
    height: float,
) -> bytes:
    """Horizontal bars on a logarithmic scale, as PNG.

    Args:
        groups: for each group its bars, by name: value, and what stands beside it.
        labels: what the legend calls a name; colours and `hatches` are in this order.
        height: of a group, in inches.
    """
    fig, ax = plotting.figure(width=8.6, height=height * len(groups) + 1.2)
    colors = dict(zip(labels, plotting.PALETTE.values(), strict=False))
    marks = dict(zip(labels, hatches, strict=True))
    step, named = 0.8 / max(len(labels), 3), set()
    for place, group in enumerate(groups.values()):
        for offset, (name, (value, beside)) in enumerate(group.items()):
            y = place + (offset - (len(group) - 1) / 2) * step
            ax.barh(
                y, value, 0.95 * step, color=colors[name], hatch=marks[name], linewidth=0,
                edgecolor=plotting.style.PAPER, label=None if name in named else labels[name],
            )  # fmt: skip
            named.add(name)
            ax.text(value * 1.06, y, beside, va="center", fontsize=8)
    ax.set(xscale="log", yticks=range(len(groups)), yticklabels=list(groups), xlabel=xlabel)
    ax.invert_yaxis()
    low, high = ax.get_xlim()
    ax.set_xlim(low, high * 1.6)
    ax.legend(
        fontsize=9, loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=len(labels), frameon=False
    )
    return plotting.png_bytes(fig)
