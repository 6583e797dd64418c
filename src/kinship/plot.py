"""A heat map of kinship: the only place in this room that knows matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from src.kinship.grams import Grams
from src.kinship.metrics import Metric
from src.runtime.errors import UserError
from src.runtime.files import replacing

_MOST_NUMBERS = 16  # models beyond which numbers in the cells would not be readable


def heat_map(grams: Grams, metric: Metric, base: str, file: Path) -> None:
    """Draw the matrix into `file`, in the format of its suffix; UserError if it cannot be written."""
    figure = _draw(metric.of(grams), grams.names, metric, base)
    try:
        with replacing(file) as partial:
            figure.savefig(partial, format=file.suffix[1:].lower(), dpi=150, bbox_inches="tight")
    except OSError as error:
        raise UserError(
            f"{file}: the heat map cannot be written there ({error.strerror}); choose another place"
        ) from None


def _draw(matrix: np.ndarray, names: tuple[str, ...], metric: Metric, base: str) -> Figure:
    """Draw similarities from red (opposed) over white to blue (the same), distances from blue (close) to white."""
    size = 2.5 + 0.6 * len(names)
    figure = Figure(figsize=(size + 1, size))
    axes = figure.add_subplot()
    similar = bool(np.isfinite(metric.highest))
    highest = metric.highest if similar else max(float(np.nanmax(matrix)), 1e-300)
    image = axes.imshow(matrix, cmap="RdBu" if similar else "Blues_r", vmin=metric.lowest, vmax=highest)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    if len(names) <= _MOST_NUMBERS:
        low, high = image.get_clim()
        for (row, column), value in np.ndenumerate(matrix):
            shade = (value - low) / (high - low)
            dark = abs(shade - 0.5) > 0.35 if similar else shade < 0.5
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", color="white" if dark else "black")
    sense = "larger is closer" if metric.larger_is_closer else "smaller is closer"
    figure.colorbar(image, ax=axes, label=f"{metric.name} ({sense})")
    axes.set_title(f"kinship against {base}", parse_math=False)
    return figure
