"""The windows of a DICOM header (PS3.3 C.11.2.1.2 and C.11.2.1.3), and numbers that may be none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset

Kind = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
_KINDS: dict[str, Kind] = {"LINEAR": "LINEAR", "LINEAR_EXACT": "LINEAR_EXACT", "SIGMOID": "SIGMOID"}


class UnusableWindow(ValueError):
    """Window elements that are no window, with the element and its value."""


@dataclass(frozen=True)
class Window:
    """A window, which is called with values of any shape and returns float32 in [0, 1].

    Attributes:
        centre, width: as in the file, in units of the rescaled values.
        kind: LINEAR, LINEAR_EXACT or SIGMOID.
    """

    centre: float
    width: float
    kind: Kind

    @property
    def name(self) -> str:
        """Centre and width, for messages."""
        return f"window {self.centre:g}/{self.width:g}"

    def __call__(self, value: np.ndarray) -> np.ndarray:
        value = value.astype(np.float32)
        if self.kind == "SIGMOID":
            return 1 / (1 + np.exp(np.clip(-4 * (value - self.centre) / self.width, -80, 80)))
        is_linear = self.kind == "LINEAR"
        centre, width = (self.centre - 0.5, self.width - 1) if is_linear else (self.centre, self.width)
        if width == 0:
            return (value > centre).astype(np.float32)
        return np.clip((value - centre) / width + 0.5, 0, 1)


def window_of(dataset: Dataset) -> Window | None:
    """Return the first window of a header, None if it has neither centre nor width.

    Raises:
        UnusableWindow: one of the two alone, no numbers, a width that the standard forbids (below 1 for
            LINEAR, else 0 or less), or an unknown VOILUTFunction.
    """
    names = ("WindowCenter", "WindowWidth")
    try:
        centre, width = (next(iter(numbers_of(dataset, name)), None) for name in names)
    except ValueError as error:
        raise UnusableWindow(str(error)) from None
    if centre is None and width is None:
        return None
    if centre is None or width is None:
        raise UnusableWindow(f"no {names[0] if centre is None else names[1]}")
    return _checked(centre, width, kind_of(dataset))


def windows_of(dataset: Dataset) -> list[tuple[Window, str]]:
    """Return all windows of a header that can be used, each with its explanation ('' if there is none).

    Where the numbers of centres and widths differ, or one is empty, it is not known which belong together:
    only the one of `window_of` is returned.
    """
    try:
        kind = kind_of(dataset)
        centres, widths = numbers_of(dataset, "WindowCenter"), numbers_of(dataset, "WindowWidth")
    except ValueError:
        return []
    places = {dataset[name].VM if name in dataset else 0 for name in ("WindowCenter", "WindowWidth")}
    if places != {len(centres)} or len(centres) != len(widths):
        try:
            first = window_of(dataset)
        except UnusableWindow:
            return []
        return [] if first is None else [(first, "")]
    texts = dataset.get("WindowCenterWidthExplanation") or []
    texts = [texts] if isinstance(texts, str) else [str(text) for text in texts]
    windows = []
    for number, (centre, width) in enumerate(zip(centres, widths, strict=True)):
        try:
            windows.append((_checked(centre, width, kind), texts[number] if number < len(texts) else ""))
        except UnusableWindow:
            continue
    return windows


def kind_of(dataset: Dataset) -> Kind:
    """Return the function of a header's windows.

    Raises:
        UnusableWindow: a function that the standard does not know.
    """
    kind = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if kind not in _KINDS:
        raise UnusableWindow(f"VOILUTFunction {kind[:20]!r}")
    return _KINDS[kind]


def _checked(centre: float, width: float, kind: Kind) -> Window:
    if not np.isfinite(centre):
        raise UnusableWindow(f"WindowCenter {centre:g}")
    if not np.isfinite(width) or width <= 0 or (kind == "LINEAR" and width < 1):
        raise UnusableWindow(f"WindowWidth {width:g}")
    return Window(centre, width, kind)


def numbers_of(dataset: Dataset, name: str) -> list[float]:
    """Return the values of an element, none if it is missing or empty.

    Raises:
        ValueError: one of them is no number; the message names the element and shows its text.
    """
    if name not in dataset:
        return []
    element = dataset.get_item(name)
    try:
        value = dataset[name].value
        if value is None or value == "":
            return []
        several = isinstance(value, Iterable) and not isinstance(value, str | bytes)
        return [float(one) for one in (value if several else [value]) if one is not None and one != ""]
    except (TypeError, ValueError, OverflowError):
        raw = getattr(element, "value", element)
        shown = raw.decode("ascii", "replace") if isinstance(raw, bytes) else str(raw)
        raise ValueError(f"{name} {shown.strip()[:20]!r}") from None
