"""The dataset in memory, what is derived from it once, and the batches that training draws from it."""

import concurrent.futures
import pathlib
from collections.abc import Sequence

import numpy as np
from flax import struct

from adnerf_jax import schema
from adnerf_jax.articulation import centre_taper, fit_ridge, lip_shapes, principal
from adnerf_jax.cameras import placement_vector
from adnerf_jax.errors import UserError
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.face.parsing import BACKGROUND, HEAD, NECK, TORSO, read_parts, with_edge
from adnerf_jax.face.tracking import UNITS_PER_CM
from adnerf_jax.media.image import read_image
from adnerf_jax.types import Batch, Camera, Conditions, Scene

# Depth of the head's box, behind and before its origin between the ears.
_BOX_DEPTH = (-20.0 * UNITS_PER_CM, 12.0 * UNITS_PER_CM)
# Components of the lips' shape that are estimated from speech.
LIPS = 3


@struct.dataclass
class Frames:
    """Frames of one split, in order of time.

    Attributes:
      split: ids, poses and face rectangles.
      images: uint8 [N, H, W, 3], the person over the clean background.
      parts: uint8 [N, H, W], `face.parsing` parts; none is background where the person has a share.
      alpha: uint8 [N, H, W], the person's share of each pixel, 255 for the person alone.
    """

    split: schema.Split
    images: np.ndarray
    parts: np.ndarray
    alpha: np.ndarray

    def __len__(self) -> int:
        return len(self.split)

    def head_images(self, rows: np.ndarray | slice, background: np.ndarray) -> np.ndarray:
        """The head alone over the clean background (`head_imgs`), uint8 [n, H, W, 3]."""
        return np.where((self.parts[rows] == HEAD)[..., None], self.images[rows], background)


@struct.dataclass
class Dataset:
    """A prepared clip, without its frames.

    Attributes:
      path: its folder.
      camera: intrinsics and size of the images.
      near_far: range of sampling along the rays.
      train, val: the splits.
      background: uint8 [H, W, 3].
      windows: float32 [N, 16, C], speech windows of all frames of the clip.
      eyes: float32 [N, 2], openness of both eyes in all frames of the clip.
      mouth_rect: int32 [N, 4], x, y, width, height around the lips in all frames of the clip.
      lips: float32 [N, L], `articulation.lip_shapes` of all frames of the clip; L = 1 where it has no landmarks.
      speech: name of the speech encoder.
    """

    path: pathlib.Path = struct.field(pytree_node=False)
    camera: Camera
    near_far: tuple[float, float]
    train: schema.Split
    val: schema.Split
    background: np.ndarray
    windows: np.ndarray
    eyes: np.ndarray
    mouth_rect: np.ndarray
    lips: np.ndarray
    speech: str = struct.field(pytree_node=False)

    def conditions(self, aud_id: np.ndarray) -> Conditions:
        """Conditions of frames given by their place in time, [F]."""
        return Conditions(audio=neighbour_windows(self.windows, aud_id), eyes=self.eyes[aud_id])


def neighbour_windows(windows: np.ndarray, aud_id: np.ndarray) -> np.ndarray:
    """The windows of the frames i−4 … i+3 by time, those of the clip's ends repeated: [F, 8, 16, C]."""
    neighbours = np.asarray(aud_id)[:, None] + np.arange(-4, 4)
    return windows[np.clip(neighbours, 0, len(windows) - 1)]


def load_dataset(data: str | pathlib.Path) -> Dataset:
    """Reads everything of a dataset but its frames.

    Raises:
      UserError: no dataset, an unfinished one, or one whose files disagree.
    """
    data = pathlib.Path(data)
    index = schema.load_index(data)
    windows = schema.load_audio_windows(data)
    lossless = data / schema.LOSSLESS_BACKGROUND
    background = read_image(lossless if lossless.exists() else data / schema.BACKGROUND)
    height, width = background.shape[:2]
    frames = len(windows)
    eyes = data / schema.EYES
    speech = schema.load_manifest(data).get("speech", {}).get("encoder", "deepspeech")
    last = max(int(ids.max()) for s in (index.train, index.val) if len(s) for ids in (s.aud_id, s.img_id))
    if last >= frames:
        raise UserError(
            f"{data}: {schema.AUDIO_WINDOWS} has {frames} rows but the frames go up to {last}; prepare it again"
        )
    return Dataset(
        path=data,
        camera=Camera(index.focal, index.cx, index.cy, height=height, width=width),
        near_far=index.near_far,
        train=index.train,
        val=index.val,
        background=background,
        windows=windows,
        eyes=np.load(eyes, allow_pickle=False) if eyes.exists() else np.zeros((frames, 2), np.float32),
        mouth_rect=_mouth_rects(data, frames, index),
        lips=_lips(data, frames),
        speech=speech,
    )


def load_frames(dataset: Dataset, split: schema.Split) -> Frames:
    """Decodes the frames of a split with two threads: lossless ones where the dataset has them, else the `.jpg`.

    Raises:
      UserError: a frame is missing or of another size.
    """
    camera = dataset.camera
    images = np.empty((len(split), camera.height, camera.width, 3), np.uint8)
    parts = np.empty((len(split), camera.height, camera.width), np.uint8)
    alpha = np.empty_like(parts)

    def load(row: int) -> None:
        i = int(split.img_id[row])
        lossless = dataset.path / schema.lossless_image(i)
        image = read_image(lossless if lossless.exists() else dataset.path / schema.composite_image(i))
        if image.shape != images.shape[1:]:
            raise UserError(f"frame {i} of {dataset.path} is {image.shape[1]}x{image.shape[0]}, its background is not")
        images[row] = image
        hard, soft = read_parts(dataset.path / schema.parsing_image(i)), dataset.path / schema.alpha_image(i)
        alpha[row] = read_image(soft)[..., 0] if soft.exists() else np.where(hard == BACKGROUND, 0, 255)
        parts[row] = with_edge(hard, alpha[row])

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(load, range(len(split))))
    return Frames(split, images, parts, alpha)


def tuning_split(split: schema.Split) -> tuple[schema.Split, schema.Split]:
    """The first nine tenths of the training frames and the last: for choosing settings without held-out frames."""
    cut = len(split) * 9 // 10
    return split.take(slice(0, cut)), split.take(slice(cut, None))


def make_scene(dataset: Dataset, frames: Frames, audio_features: int) -> Scene:
    """Everything fixed by the training data, from training frames only.

    Args:
      dataset: the clip.
      frames: its training frames.
      audio_features: K, the number of components that the speech features are projected to.
    """
    windows = dataset.windows[frames.split.aud_id]
    mean, basis = whiten(windows, audio_features)
    taper = centre_taper(windows.shape[1])[:, None]
    weights, bias = fit_ridge(
        ((windows - mean) * taper).reshape(len(windows), -1).astype(np.float64),
        principal(dataset.lips[frames.split.aud_id], LIPS),
    )
    eyes = dataset.eyes[frames.split.aud_id]
    poses = np.asarray(placement_vector(frames.split.transforms))
    torso_rows = np.flatnonzero(np.isin(frames.parts, (NECK, TORSO)).any(axis=(0, 2)))
    top = torso_rows[0] - 0.02 * dataset.camera.height if len(torso_rows) else dataset.camera.height
    near, far = dataset.near_far
    return Scene(
        near=np.float32(near),
        far=np.float32(far),
        box=head_box(frames, dataset.camera),
        audio_mean=mean,
        audio_basis=basis,
        lips_weights=(weights.reshape(*windows.shape[1:], -1) * taper[..., None]).astype(np.float32),
        lips_bias=bias.astype(np.float32),
        eyes_mean=eyes.mean(0).astype(np.float32),
        eyes_scale=eyes.std(0).astype(np.float32) + np.float32(1e-3),
        pose_mean=poses.mean(0).astype(np.float32),
        pose_scale=poses.std(0).astype(np.float32) + np.float32(1e-4),
        torso_top=np.float32(top / dataset.camera.height),
    )


def whiten(windows: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and basis that turn speech features into their leading principal components with variance 1.

    A few hundred frames cannot teach a network which of several hundred correlated features matter.

    Args:
      windows: [N, 16, C].
      components: K; fewer where C is smaller.

    Returns:
      mean [C] and basis [C, K], float32.
    """
    rows = windows.reshape(-1, windows.shape[-1]).astype(np.float64)
    mean = rows.mean(0)
    variances, vectors = np.linalg.eigh(np.cov(rows - mean, rowvar=False))
    keep = np.argsort(variances)[::-1][: min(components, len(mean))]
    floor = 1e-6 * variances.max() + 1e-12
    return mean.astype(np.float32), (vectors[:, keep] / np.sqrt(variances[keep] + floor)).astype(np.float32)


def head_box(frames: Frames, camera: Camera) -> np.ndarray:
    """The space that the head can occupy: its outlines in up to 100 frames, put at its depth, with a margin of 5%.

    Returns:
      float32 [2, 3], corners in head space.
    """
    corners = []
    for row in np.unique(np.linspace(0, len(frames) - 1, 100).astype(int)):
        rows, columns = np.nonzero(frames.parts[row] == HEAD)
        if not len(rows):
            continue
        transform = frames.split.transforms[row]
        depth = schema.mean_depth(transform[None])
        for y in (rows.min(), rows.max()):
            for x in (columns.min(), columns.max()):
                local = [(x - camera.cx) / camera.focal, -(y - camera.cy) / camera.focal, -1.0]
                corners.append(transform[:3, :3] @ np.multiply(local, depth) + transform[:3, 3])
    if not corners:
        raise UserError("no frame shows a head: the part maps of the dataset are empty; prepare it again")
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin
    low[2], high[2] = _BOX_DEPTH
    return np.stack([low, high]).astype(np.float32)


class RaySampler:
    """Draws the rays of a step; the draw depends on (seed, step) alone, so a resumed run sees the same batches.

    Args:
      dataset, frames: what to draw from.
      frames_per_step, rays_per_frame: F and R.
      regions: share of the rays for each region, of `regions_of`.
      random_background: replace everything outside `subject` by random colours, the same in front and in the target,
        so that opacity is learned exactly and no colour of the background enters the person.
      subject: the parts that are the subject of this stage.
      seed: of the draws.
    """

    def __init__(
        self,
        dataset: Dataset,
        frames: Frames,
        *,
        frames_per_step: int,
        rays_per_frame: int,
        regions: dict[str, float],
        random_background: bool,
        subject: Sequence[int],
        seed: int,
    ):
        self.dataset, self.frames = dataset, frames
        self.frames_per_step = min(frames_per_step, len(frames))
        self.rays_per_frame = rays_per_frame
        self.random_background, self.subject, self.seed = random_background, tuple(subject), seed
        shares = np.cumsum([0.0, *regions.values()])
        # The number of rays in each region is fixed, the rays are not.
        self._counts = np.diff(np.round(shares / shares[-1] * rays_per_frame).astype(int))
        rects = regions_of(dataset, frames)
        self._rects = np.stack([rects[name] for name in regions])

    def batch(self, step: int) -> Batch:
        """The rays of a step, as numpy arrays."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        rows = rng.choice(len(self.frames), self.frames_per_step, replace=False)
        x, y, width, height = np.moveaxis(
            np.repeat(self._rects[:, rows], self._counts, axis=0).transpose(1, 0, 2), -1, 0
        )
        u = rng.random((2, self.frames_per_step, self.rays_per_frame))
        row_px = y + (u[0] * height).astype(np.int32)
        col_px = x + (u[1] * width).astype(np.int32)
        colours = self.frames.images[rows[:, None], row_px, col_px].astype(np.float32) / 255.0
        clean = self.dataset.background[row_px, col_px].astype(np.float32) / 255.0
        behind = rng.random(clean.shape, dtype=np.float32) if self.random_background else clean
        subject = np.isin(self.frames.parts[rows[:, None], row_px, col_px], self.subject)[..., None]
        through = 1 - self.frames.alpha[rows[:, None], row_px, col_px, None].astype(np.float32) / 255.0
        # The share of the background in a pixel at the edge is exchanged for the same share of what stands behind.
        exchanged = np.clip(colours + through * (behind - clean), 0, 1)
        split = self.frames.split
        return Batch(
            pixels=np.stack([row_px, col_px], axis=-1).astype(np.float32),
            target=np.where(subject, exchanged, behind),
            background=behind,
            transforms=split.transforms[rows],
            conditions=self.dataset.conditions(split.aud_id[rows]),
        )


def regions_of(dataset: Dataset, frames: Frames) -> dict[str, np.ndarray]:
    """Rectangles x, y, width, height [N, 4] inside the image, by name.

    `frame`: everything; `face`: the face rectangle; `mouth`: around the lips; `head`, `torso`: around the part, with a
    margin of 4% of the image.
    """
    camera = dataset.camera
    whole = np.tile(np.array([0, 0, camera.width, camera.height]), (len(frames), 1))
    margin = round(0.04 * camera.width)
    return {
        "frame": whole,
        "face": _inside(frames.split.face_rect, camera),
        "mouth": _inside(dataset.mouth_rect[frames.split.aud_id], camera),
        "head": _inside(_around(frames.parts == HEAD, margin), camera),
        "torso": _inside(_around((frames.parts == NECK) | (frames.parts == TORSO), margin), camera),
    }


def subject_parts(stage: str) -> tuple[int, ...]:
    """The parts that a stage's target shows in front of the background."""
    return {"head": (HEAD,), "torso": (HEAD, NECK, TORSO)}[stage]


def _around(mask: np.ndarray, margin: int) -> np.ndarray:
    """Bounding rectangles [N, 4] of masks [N, H, W]; the whole image where a mask is empty."""
    rects = np.empty((len(mask), 4), int)
    for i, one in enumerate(mask):
        rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
        if not len(rows):
            rects[i] = 0, 0, mask.shape[2], mask.shape[1]
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


def _mouth_rects(data: pathlib.Path, frames: int, index: schema.Index) -> np.ndarray:
    """Around the lips' landmarks with half their size to each side; the face's lower middle where there are none."""
    rects = np.zeros((frames, 4), np.int32)
    for split in (index.train, index.val):
        for i, (x, y, width, height) in zip(split.img_id, split.face_rect, strict=True):
            rects[i] = x + width // 4, y + 6 * height // 10, width // 2, 4 * height // 10
            path = data / schema.landmark_file(i)
            if path.exists():
                lips = np.loadtxt(path)[48:68]
                low, high = lips.min(0), lips.max(0)
                size = np.array([high[0] - low[0], max(high[1] - low[1], 0.5 * (high[0] - low[0]))])
                centre = (low + high) / 2
                rects[i] = [*np.floor(centre - size), *np.ceil(2 * size)]
    return rects


def _lips(data: pathlib.Path, frames: int) -> np.ndarray:
    path = data / schema.LANDMARKS
    return lip_shapes(Landmarks.load(path).points)[:frames] if path.exists() else np.zeros((frames, 1), np.float32)
