"""Numbers as words."""

from __future__ import annotations


def number(value: float | None, spec: str) -> str:
    """Format a value, without a minus before a zero; None becomes an empty text."""
    text = "" if value is None else format(value, spec)
    return text if text.strip("-+0.%") else text.replace("-", "+" if spec.startswith("+") else "", 1)


def interval(low: float, high: float) -> str:
    """Format the bounds of an interval of differences."""
    return f"{number(low, '+.2f')} to {number(high, '+.2f')}"


def gain(points: float, low: float, high: float, p: float) -> str:
    """Format a difference with its interval and its p."""
    return f"{number(points, '+.2f')} ({interval(low, high)}, {p_value(p)})"


def p_value(p: float) -> str:
    """Format a p value, down to 0.001."""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def plural(count: int, noun: str) -> str:
    """Format a count of things."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
