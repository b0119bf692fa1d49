"""Shots of a video: hard cuts, gradual transitions and black frames, from small pictures of its frames."""

import numpy as np

# A cut changes the picture far more than its neighbouring frames do, and permanently. The mean absolute change must
# exceed _MIN_CHANGE grey levels and _MIN_RATIO times the median change of the _NEIGHBOURHOOD frames to each side.
_MIN_CHANGE, _MIN_RATIO, _NEIGHBOURHOOD = 12.0, 5.0, 12
_MIN_DISSIMILARITY = 0.3  # 1 − correlation, which a change of exposure leaves near 0
# In a dissolve or a fade the frames between two pictures are mixtures of both. Of motion they are not.
_LENGTHS = (6, 12, 25, 50)  # frames between the compared pictures
_MIN_GRADUAL_RATIO = 3.0  # times the usual change over as many frames
_USUAL = 0.25  # its quantile: a dissolve is in view of most pairs of a short video
_MAX_RESIDUAL = 0.15  # of the change, that mixtures leave unexplained
_PURE = 0.04  # share of the other picture up to which a frame is outside the transition
_BLACK = 20  # grey level that hardly any pixel of a black frame exceeds
_BRIGHT_SHARE = 0.98  # quantile of the pixels for that
_FULL = 0.9  # share of the brightness of the shot from which a fade is over
_LONGEST_FADE = 50  # frames


def find_cuts(changes: np.ndarray) -> np.ndarray:
    """The first frames of all shots but the first, of hard cuts.

    Args:
      changes: [N, 3]. For frame k: its mean absolute difference to frame k − 1 in grey levels, its dissimilarity to
        that frame, and the mean absolute difference between the frames k − 1 and k + 1.

    Returns:
      int [K], indices of frames.
    """
    cuts = []
    for k in range(1, len(changes)):
        low, high = max(k - _NEIGHBOURHOOD, 1), k + _NEIGHBOURHOOD + 1
        around = np.delete(changes[low:high, 0], k - low)
        usual = np.median(around) if len(around) else 0.0
        difference, dissimilarity, lasting = changes[k]
        threshold = max(_MIN_CHANGE, _MIN_RATIO * usual)
        if difference > threshold and lasting > threshold and dissimilarity > _MIN_DISSIMILARITY:
            cuts.append(k)
    return np.array(cuts, int)


def dissimilarity(a: np.ndarray, b: np.ndarray) -> float:
    """1 − correlation of two pictures."""
    a, b = a - a.mean(), b - b.mean()
    return float(1.0 - (a * b).mean() / max(a.std() * b.std(), 1e-6)) if a.std() + b.std() > 2 else 0.0


def in_transition(small: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Which frames belong to no shot: those of dissolves and fades, and black ones; bool [N].

    Args:
      small: uint8 [N, P], the grey pixels of a thumbnail of each frame.
      cuts: int [K], the hard cuts, which are no gradual transitions.
    """
    found = np.zeros(len(small), bool)
    for length in _LENGTHS:
        for first, last in _mixtures(small, length, cuts):
            if not found[first : last + 1].any():
                found[_span(small, first, last)] = True
    return found | _black(small)


def _mixtures(small: np.ndarray, length: int, cuts: np.ndarray) -> list[tuple[int, int]]:
    """Spans of frames (first, last) whose middle is a mixture of their ends, overlapping ones united."""
    count = len(small) - length
    if count < 1:
        return []
    change = np.empty(count)
    for k in range(count):
        change[k] = np.abs(small[k + length].astype(np.float32) - small[k]).mean()
    spans: list[tuple[int, int]] = []
    least = max(_MIN_CHANGE, _MIN_GRADUAL_RATIO * float(np.quantile(change, _USUAL)))
    for k in np.flatnonzero(change > least).tolist():
        if ((cuts > k) & (cuts <= k + length)).any():
            continue
        before, after = small[k].astype(np.float32), small[k + length].astype(np.float32)
        if dissimilarity(before, after) <= _MIN_DISSIMILARITY:
            continue
        quarters = small[[k + length // 4, k + length // 2, k + 3 * length // 4]].astype(np.float32)
        shares = (quarters - before) @ (after - before) / np.square(after - before).sum()
        left = np.abs(quarters - before - shares[:, None] * (after - before)).mean(1)
        rises = -0.05 < shares[0] < shares[1] < shares[2] < 1.05 and 0.15 < shares[1] < 0.85
        if not rises or left.max() > _MAX_RESIDUAL * change[k]:
            continue
        if spans and k <= spans[-1][1]:
            spans[-1] = spans[-1][0], k + length
        else:
            spans.append((k, k + length))
    return spans


def _span(small: np.ndarray, first: int, last: int) -> slice:
    """The frames of a transition that lies within or around a span: those that are no pure picture of either end."""
    first, last = max(first - (last - first), 0), min(last + (last - first), len(small) - 1)
    before, after = small[first].astype(np.float32), small[last].astype(np.float32)
    frames = small[first : last + 1].astype(np.float32)
    share = (frames - before) @ (after - before) / max(float(np.square(after - before).sum()), 1.0)
    # Motion within a shot has shares of its own: the mixture is what lies above those that are usual at each end.
    at = int(np.argmin(np.abs(share - 0.5)))
    low, high = max(_PURE, float(np.median(share[: max(at // 3, 1)])) + _PURE), 1.0 - _PURE
    high = min(high, float(np.median(share[at + 2 * (len(share) - at) // 3 :])) - _PURE)
    begin, end = at, at
    while begin > 0 and share[begin - 1] > low:
        begin -= 1
    while end < len(share) - 1 and share[end + 1] < high:
        end += 1
    return slice(max(first + begin - 1, 0), first + end + 2)


def _black(small: np.ndarray) -> np.ndarray:
    """Which frames are black, or fade from or to black."""
    black = np.array([np.quantile(one, _BRIGHT_SHARE) < _BLACK for one in small], bool)
    if black.all():
        return np.zeros(len(small), bool)
    bright = small.mean(1)
    found = black.copy()
    for step in (1, -1):
        for k in np.flatnonzero(black & ~np.roll(black, -step)).tolist():
            fade = [at for at in range(k + step, k + step * (_LONGEST_FADE + 1), step) if 0 <= at < len(small)]
            full = _FULL * max((float(bright[at]) for at in fade), default=0.0)
            for at in fade:
                if bright[at] >= full:
                    break
                found[at] = True
    return found
