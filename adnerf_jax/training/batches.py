"""The rays of a training step, drawn from the frames of a dataset; the draw depends on (seed, step) alone."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from adnerf_jax.common.types import Batch, Camera
from adnerf_jax.data.datasets import Dataset, Frames, unpack_frame
from adnerf_jax.face.parsing import HEAD, NECK, TORSO

# Radius around a pixel of a soft edge in which opaque pixels of the person are searched: a share of the picture's
# height, and its least value in pixels (the width of soft edges: `preprocessing.matting`).
_REACH, _LEAST_REACH = 0.012, 5
# λ: weight of the colour of opaque pixels near by against the filmed mixture.
_NEAR_WEIGHT = 0.3


class RaySampler:
    """Draws the rays of a step; the draw depends on (seed, step) alone, so a resumed run has the same batches.

    Args:
      dataset, frames: what rays are drawn from.
      frames_per_step, rays_per_frame: F and R.
      regions: share of the rays for each region: those of `regions_of`, and `outside`, which is all but `face`.
      swapped_rect: the face rectangle with rows and columns interchanged, as in the published code.
      random_background: replace everything outside `subject` by random colours, in the background and in the target
        alike, so that opacity is supervised exactly and no background colour leaks into the person.
      subject: the parts (`face.parsing`) that this stage renders.
      seed: seed of the draws.
    """

    def __init__(
        self,
        dataset: Dataset,
        frames: Frames,
        *,
        frames_per_step: int,
        rays_per_frame: int,
        regions: dict[str, float],
        swapped_rect: bool = False,
        random_background: bool,
        subject: Sequence[int],
        seed: int,
    ):
        self.dataset, self.frames = dataset, frames
        self.frames_per_step = min(frames_per_step, len(frames))
        self.rays_per_frame = rays_per_frame
        self.random_background, self.seed = random_background, seed
        self._is_subject = np.isin(np.arange(256), subject)  # by part
        shares = np.cumsum([0.0, *regions.values()])
        # The number of rays in each region is fixed, the rays are not.
        self._counts = np.diff(np.floor(shares / shares[-1] * rays_per_frame + 1e-6).astype(int))
        rects = regions_of(dataset, frames, swapped_rect)
        rects["outside"] = rects["face"]
        self._rects = np.stack([rects[name] for name in regions])
        self._outside = np.repeat([name == "outside" for name in regions], self._counts)

    def batch(self, step: int, columns: np.ndarray | None = None) -> Batch:
        """The rays of a step, as numpy arrays.

        Args:
          step: from 0.
          columns: indices, below `rays_per_frame`, of the rays of each frame to return; None: all. A ray does not
            depend on which others are returned.
        """
        rng = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        rows = rng.choice(len(self.frames), self.frames_per_step, replace=False)
        x, y, width, height = np.moveaxis(
            np.repeat(self._rects[:, rows], self._counts, axis=0).transpose(1, 0, 2), -1, 0
        )
        u = rng.random((2, self.frames_per_step, self.rays_per_frame))
        row_px = y + (u[0] * height).astype(np.int32)
        col_px = x + (u[1] * width).astype(np.int32)
        if self._outside.any():
            around = _around_rect(u[0], x, y, width, height, self.dataset.camera)
            row_px, col_px = (np.where(self._outside, a, b) for a, b in zip(around, (row_px, col_px), strict=True))
        noise = rng.random((*row_px.shape, 3), dtype=np.float32) if self.random_background else None
        if columns is not None:
            row_px, col_px = row_px[:, columns], col_px[:, columns]
            noise = None if noise is None else noise[:, columns]
        image, parts, alpha = unpack_frame(_at(self.frames.packed, (rows[:, None], row_px, col_px)))
        colours = image.astype(np.float32) / 255.0
        clean = _at(self.dataset.background, (row_px, col_px)).astype(np.float32) / 255.0
        behind = clean if noise is None else noise
        subject = self._is_subject[parts]
        if noise is not None:
            edge = np.nonzero(subject & (alpha < 255))
            at = (rows[edge[0]], row_px[edge], col_px[edge])
            share = alpha[edge].astype(np.float32) / 255.0
            colours[edge] = _mixed(self.frames.packed, at, colours[edge], share, clean[edge], behind[edge])
        split = self.frames.split
        return Batch(
            pixels=np.stack([row_px, col_px], axis=-1).astype(np.float32),
            target=np.where(subject[..., None], colours, behind),
            background=behind,
            transforms=split.transforms[rows],
            conditions=self.dataset.conditions(split.aud_id[rows], tracked=self.dataset.codes),
        )


def _mixed(
    packed: np.ndarray, at: tuple, filmed: np.ndarray, share: np.ndarray, clean: np.ndarray, behind: np.ndarray
) -> np.ndarray:
    """Pixels of soft edges over another background: αF + (1 − α)B with an estimated foreground colour F.

    F solved from the filmed mixture alone would contain colour of the clean background wherever α is a little too
    large: a halo over any other background. So F minimises |αF + (1 − α)B − C|² + λ|F − N|², with the filmed colour C,
    the clean background B and the colour N of the nearest opaque pixels of the person. Without such pixels, the
    background's share of the filmed colour is exchanged.

    Args:
      packed: the frames, as in `Frames`.
      at: frame, row and column [E] each.
      filmed, clean, behind: colours [E, 3] in [0, 1].
      share: α [E].
    """
    height, width = packed.shape[1:3]
    reach = max(round(_REACH * height), _LEAST_REACH)
    across = np.arange(-reach, reach + 1)
    row, col = at[1][:, None, None] + across[:, None], at[2][:, None, None] + across
    inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    image, _, alpha = unpack_frame(_at(packed, (at[0][:, None, None], row, col), mode="clip"))
    # Weights exp(−d²) of pixels at distance d.
    near = np.exp(-np.square(across[:, None]) - np.square(across), dtype=np.float32)
    weights = near * (inside & (alpha == 255))
    total = weights.sum((1, 2))
    person = np.einsum("eij,eijc->ec", weights, image.astype(np.float32) / 255.0)
    person /= np.maximum(total, np.finfo(np.float32).tiny)[:, None]
    share, through = share[:, None], 1 - share[:, None]
    solved = person + share * (filmed - share * person - through * clean) / (share**2 + _NEAR_WEIGHT)
    exchanged = np.clip(filmed + through * (behind - clean), 0, 1)
    return np.where(total[:, None] > 0, np.clip(share * solved + through * behind, 0, 1), exchanged)


def _at(pictures: np.ndarray, places: tuple, mode: Literal["raise", "clip"] = "raise") -> np.ndarray:
    """Pixels [..., C] of pictures [(N, ) H, W, C]: `pictures[places]` in about half the time.

    Args:
      places: (frame, ) row and column, broadcast against each other.
      mode: mode of `np.ravel_multi_index`, for places outside.
    """
    *shape, channels = pictures.shape
    flat = np.ravel_multi_index(places, shape, mode=mode)
    return pictures.reshape(-1, channels).take(flat, axis=0)


def _around_rect(u: np.ndarray, x, y, width, height, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Pixels outside rectangles, one for each quantile u [...] in [0, 1): row and column; of all, if none is outside.

    The pixels are counted row by row: above the rectangle, left and right of it, below it.
    """
    beside = np.maximum(camera.width - width, 1)
    left = camera.height * camera.width - width * height
    number = (u * np.where(left > 0, left, camera.height * camera.width)).astype(np.int64)
    above, middle = y * camera.width, height * (camera.width - width)
    lower = number + width * height  # counted among all pixels, for those below
    row, column = np.divmod(np.where(number < above, number, lower), camera.width)
    in_middle = (number >= above) & (number < above + middle)
    side_row, side_column = np.divmod(number - above, beside)
    row = np.where(in_middle, y + side_row, row)
    column = np.where(in_middle, side_column + np.where(side_column >= x, width, 0), column)
    whole_row, whole_column = np.divmod(number, camera.width)
    return np.where(left > 0, row, whole_row), np.where(left > 0, column, whole_column)


def regions_of(dataset: Dataset, frames: Frames, swapped_rect: bool = False) -> dict[str, np.ndarray]:
    """Rectangles x, y, width, height [N, 4] inside the image, by name.

    `frame`: everything; `face`: the face rectangle (`swapped_rect`: rows and columns interchanged); `mouth`: around the
    lips; `head`, `torso`: around the part, with a margin of 4% of the image.
    """
    camera = dataset.camera
    face = frames.split.face_rect[:, [1, 0, 3, 2]] if swapped_rect else frames.split.face_rect
    whole = np.tile(np.array([0, 0, camera.width, camera.height]), (len(frames), 1))
    margin = round(0.04 * camera.width)
    return {
        "frame": whole,
        "face": _inside(face, camera),
        "mouth": _inside(dataset.mouth_rect[frames.split.aud_id], camera),
        "head": _inside(_around(frames.parts, (HEAD,), margin), camera),
        "torso": _inside(_around(frames.parts, (NECK, TORSO), margin), camera),
    }


def _around(parts: np.ndarray, wanted: Sequence[int], margin: int) -> np.ndarray:
    """Bounding rectangles [N, 4] of some parts in part maps [N, H, W]; the whole image without them."""
    rects = np.empty((len(parts), 4), int)
    for i, picture in enumerate(parts):
        mask = np.isin(picture, wanted)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            rects[i] = 0, 0, parts.shape[2], parts.shape[1]
            continue
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        rects[i] = left - margin, top - margin, right - left + 2 * margin, bottom - top + 2 * margin
    return rects


def _inside(rects: np.ndarray, camera: Camera) -> np.ndarray:
    """Rectangles cut to the image; at least one pixel each."""
    x0 = np.clip(rects[:, 0], 0, camera.width - 1)
    y0 = np.clip(rects[:, 1], 0, camera.height - 1)
    x1 = np.clip(rects[:, 0] + rects[:, 2], x0 + 1, camera.width)
    y1 = np.clip(rects[:, 1] + rects[:, 3], y0 + 1, camera.height)
    return np.stack([x0, y0, x1 - x0, y1 - y0], axis=1)
