"""Figures as bars, a file beside the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from table import OUT


def bars(name: str, figures: Mapping[str, float], unit: str) -> Path | None:
    """Draw `build/bench/NAME.svg` and return it; None, told on the terminal, without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(figures) + 1))
    drawn = axes.barh(list(figures)[::-1], list(figures.values())[::-1])
    axes.bar_label(drawn, fmt="%.3g", padding=3)
    axes.margins(x=0.1)
    axes.set_xlabel(unit)
    figure.tight_layout()
    path = OUT / f"{name}.svg"
    figure.savefig(path)
    pyplot.close(figure)
    return path
