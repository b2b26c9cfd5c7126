"""Labels of cross-entropy in the forms that programs have: classes as integers, or a distribution for each row."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastopt._floats import converted
from fastopt._integers import described, element, int64_copy, is_integer_array
from fastopt._runtime import dispatch
from fastopt._runtime.arrays import Array, array_if_like, array_like, is_masked

INTEGERS, NUMBERS = frozenset("iu"), frozenset("fiub")
"""Kinds of dtypes: of classes, and of distributions."""

_FLOAT32 = np.dtype(np.float32)


def as_array(labels: Any) -> Any:
    """An array of the labels in a list or tuple, nested or not; anything else, and lists that make none, unchanged."""
    if not isinstance(labels, (list, tuple)):
        return labels
    try:
        if _holds_a_mask(labels):
            return labels
        array = np.asarray(labels)
    except (ValueError, RecursionError):        # rows of several lengths; a list that contains itself
        return labels
    return array if array.size else array.astype(np.int64)


def _holds_a_mask(labels: Any) -> bool:
    """Whether a masked array is in a nested list: numpy.asarray would drop its mask."""
    return any(map(_holds_a_mask, labels)) if isinstance(labels, (list, tuple)) else is_masked(labels)


def require_classes(array: Array, given: NDArray[Any], classes: int, ignore_index: int) -> None:
    """Refuse `array`, a copy of the labels `given`, if one of them is neither a class nor ignore_index."""
    wrong = dispatch.active.cross_entropy.first_wrong_label(array, classes, ignore_index)
    if wrong >= 0:
        raise ValueError(f"labels: expected {ignore_index} (ignore_index) or a class in [0, {classes}), got "
                         f"{element(given, 'labels', wrong)}")


def _classes(labels: NDArray[Any], rows: tuple[int, ...], classes: int,
             ignore_index: int) -> tuple[NDArray[np.int64], Array]:
    """A validated C-contiguous int64 copy of shape `rows` of an integer array of that size, and its Array."""
    copy, array = int64_copy(labels if labels.shape == rows else labels.reshape(rows), "labels")
    require_classes(array, labels, classes, ignore_index)
    return copy, array


def class_labels(labels: Any, rows: tuple[int, ...], classes: int,
                 ignore_index: int) -> tuple[NDArray[np.int64], Array]:
    """A validated C-contiguous int64 copy of classes, of shape `rows` or (*rows, 1), and its Array."""
    if is_integer_array(labels) and labels.shape == rows:       # the most frequent
        return _classes(labels, rows, classes, ignore_index)
    if not is_integer_array(labels) or labels.shape not in (rows, (*rows, 1)):
        error = ValueError if is_integer_array(labels) else TypeError
        one_hot = isinstance(labels, np.ndarray) and labels.shape == (*rows, classes)
        raise error(f"labels: expected integers of shape {rows} or {(*rows, 1)}, got {described(labels)}"
                    f"{'; the classes of one-hot rows are labels.argmax(axis=-1)' if one_hot else ''}")
    return _classes(labels, rows, classes, ignore_index)


def labels_or_distributions(labels: Any, logits: Array, rows: tuple[int, ...], classes: int,
                            ignore_index: int) -> tuple[Array | None, Array | None, Any]:
    """Classes as an Array of int64, or distributions as one of float32, the other one None; and the array of which it
    is a copy, or None."""
    if is_integer_array(labels) and labels.shape == rows:
        return _classes(labels, rows, classes, ignore_index)[1], None, labels
    target = array_if_like(labels, "labels", logits)
    if target is not None:
        return None, target, None
    labels = as_array(labels)
    if is_integer_array(labels) and (labels.shape == rows or (labels.shape == (*rows, 1) and classes > 1)):
        return _classes(labels, rows, classes, ignore_index)[1], None, labels
    shape = (*rows, classes)
    kind = labels.dtype.kind if isinstance(labels, np.ndarray) and not is_masked(labels) else ""
    if kind in NUMBERS and labels.shape == shape:
        if classes == 1 and kind in INTEGERS:
            raise ValueError(f"labels: expected integers of shape {rows} or float distributions of shape {shape} (with "
                             f"one class, integers of that shape may be either), got {described(labels)}")
        return None, array_like(converted(labels, _FLOAT32, "labels"), "labels", False, logits), labels
    right_type = kind in INTEGERS or (kind in NUMBERS and labels.shape not in (rows, (*rows, 1)))
    column = f" or {(*rows, 1)}" if classes > 1 else ""
    raise (ValueError if right_type else TypeError)(
        f"labels: expected integers of shape {rows}{column}, or distributions of shape {shape}, got "
        f"{described(labels)}")
