"""A dataset in memory: everything but the frames, and the decoding of these.

Besides the project's own, datasets of AD-NeRF's and RAD-NeRF's preprocessing are read as they are.
"""

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Collection, Sequence

import cv2
import numpy as np
from flax import struct

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.progress import say
from adnerf_jax.common.timing import FPS, FRAMES_AFTER, FRAMES_BEFORE
from adnerf_jax.common.types import Camera, Conditions
from adnerf_jax.data import schema
from adnerf_jax.data.tracks import Clip, read_tracks
from adnerf_jax.face.landmarks import face_rect
from adnerf_jax.face.parsing import BACKGROUND, HEAD, NECK, TORSO, extend_to_alpha, read_parts
from adnerf_jax.media.image import read_image
from adnerf_jax.models.codes.registry import CODES, driven_codes, tracked_codes

# The parts of the person that are rendered for a subject; in its target, all else is background.
SUBJECTS = {"head": (HEAD,), "person": (HEAD, NECK, TORSO)}
# Bytes of a pixel of a packed frame; a change of the packing needs a new `frame_cache._VERSION`.
CHANNELS = 5
# Frames by which the sound may be shorter than the video: they use the last window, as in the published code.
_SHORT_SOUND = int(FPS)


@struct.dataclass
class Frames:
    """Frames of one split, in order of time.

    Attributes:
      split: ids, poses and face rectangles.
      packed: uint8 [N, H, W, 5], `images`, `parts` and `alpha` of a pixel side by side (`pack_frame`), so that a random
        pixel is read from one page of memory.
    """

    split: schema.Split
    packed: np.ndarray

    def __len__(self) -> int:
        return len(self.split)

    @property
    def images(self) -> np.ndarray:
        """The person over the clean background, uint8 [N, H, W, 3]."""
        return unpack_frame(self.packed)[0]

    @property
    def parts(self) -> np.ndarray:
        """`face.parsing` parts, uint8 [N, H, W]; a person's part wherever alpha is above 0."""
        return unpack_frame(self.packed)[1]

    @property
    def alpha(self) -> np.ndarray:
        """The person's opacity in each pixel, uint8 [N, H, W], 255: opaque."""
        return unpack_frame(self.packed)[2]

    def showing(self, subject: Sequence[int], rows: np.ndarray | slice, background: np.ndarray) -> np.ndarray:
        """Some parts of the person over the clean background (for the head: `head_imgs`), uint8 [n, H, W, 3]."""
        return np.where(np.isin(self.parts[rows], subject)[..., None], self.images[rows], background)


def pack_frame(image: np.ndarray, parts: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours [..., 3], parts [...] and alpha [...] side by side: uint8 [..., 5]. All must be uint8 (TypeError)."""
    return np.concatenate([image, parts[..., None], alpha[..., None]], axis=-1, dtype=np.uint8, casting="no")


def unpack_frame(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Views of colours [..., 3], parts [...] and alpha [...] of a packed frame (`pack_frame`)."""
    return packed[..., :3], packed[..., 3], packed[..., 4]


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
      mouth_rect: int32 [N, 4], x, y, width, height around the lips in all frames of the clip.
      tracks: float32 [N, D] each, what was measured in all frames of the clip, by name (`tracks.READERS`). Tracks that
        were not measured are absent.
      neighbours: int32 [N, 8], rows of `windows` for the frames i−4 … i+3; −1 is a window of zeros.
      speech: name of the speech encoder.
      codes: names of the condition codes that the clip is read for: those of the head.
      stored: (height, width) of the pictures on disk, which are shrunk to the camera's size where that is smaller.
    """

    path: pathlib.Path = struct.field(pytree_node=False)
    camera: Camera
    near_far: tuple[float, float]
    train: schema.Split
    val: schema.Split
    background: np.ndarray
    windows: np.ndarray
    mouth_rect: np.ndarray
    tracks: dict[str, np.ndarray]
    neighbours: np.ndarray
    speech: str = struct.field(pytree_node=False)
    codes: tuple[str, ...] = struct.field(pytree_node=False)
    stored: tuple[int, int] = struct.field(pytree_node=False)

    def conditions(self, aud_id: np.ndarray, tracked: Collection[str] = ()) -> Conditions:
        """Conditions of F frames: speech windows, and the raw inputs of the driven codes as measured.

        Args:
          aud_id: int [F], numbers of the frames in the clip.
          tracked: names of codes whose raw inputs are added although a new recording has no source for them (the
            expression). Training names all codes, rendering none.
        """
        rows = self.neighbours[aud_id]
        windows = self.windows[rows]
        windows[rows < 0] = 0
        return Conditions(windows, self.raw_inputs(aud_id, {*driven_codes(), *tracked}))

    def raw_inputs(self, aud_id: np.ndarray, names: Collection[str]) -> dict[str, np.ndarray]:
        """Raw inputs [F, D] of those of the clip's codes that are named, in frames [F].

        Codes without a raw input, and those that were not measured, are absent.
        """
        known = tracked_codes()
        found = {
            name: known[name].raw_input(self.tracks_of(name, aud_id), len(aud_id))
            for name in self.codes
            if name in names and name in known
        }
        return {name: values for name, values in found.items() if values is not None}

    def tracks_of(self, code: str, aud_id: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
        """The measured tracks that a condition code reads, [F, …] each, in frames [F] or in all of them."""
        return {name: self.tracks[name][aud_id] for name in CODES[code].reads() if name in self.tracks}


def neighbours_in_time(frames: int, zero_padded: bool = False) -> np.ndarray:
    """Numbers of the frames i−4 … i+3 for each frame i, int32 [N, 8].

    Past the clip's ends they are clamped to its first or last frame; if zero-padded, they are −1.
    """
    return _at_places(np.arange(frames), zero_padded)


def neighbours_in_lists(lists: list[np.ndarray], frames: int, zero_padded: bool = False) -> np.ndarray:
    """The published code's neighbours, int32 [N, 8]: by place in the split's list, as if no frame had been dropped.

    Frames in neither list have their neighbours by time.
    """
    neighbours = neighbours_in_time(frames, zero_padded)
    for aud_id in lists:
        neighbours[aud_id] = np.append(aud_id, -1)[_at_places(np.arange(len(aud_id)), zero_padded)]
    return neighbours


def _at_places(numbers: np.ndarray, zero_padded: bool) -> np.ndarray:
    around = numbers[:, None] + np.arange(-FRAMES_BEFORE, FRAMES_AFTER + 1)
    inside = np.clip(around, 0, len(numbers) - 1)
    return np.where(zero_padded & (around != inside), -1, inside).astype(np.int32)


def load_dataset(
    data: str | pathlib.Path,
    size: int | None = None,
    *,
    zero_padded: bool = False,
    neighbours_by_list: bool = False,
    codes: Sequence[str] | None = None,
) -> Dataset:
    """Reads everything of a dataset but its frames.

    Args:
      data: its folder.
      size: pixels of the longer side that pictures are shrunk to; None: as they are.
      zero_padded: past the clip's ends, neighbouring windows are zeros (published code), not the end's window.
      neighbours_by_list: neighbouring windows by place in the split's list (published code), not by time.
      codes: names of the head's condition codes; None: all that are registered.

    Raises:
      UserError: no dataset, an unfinished one, or one whose files disagree.
    """
    data = pathlib.Path(data)
    index = schema.load_index(data)
    background = read_image(schema.first_of(data, schema.BACKGROUNDS))
    full_height, full_width = background.shape[:2]
    camera = Camera(index.focal, index.cx, index.cy, height=full_height, width=full_width)
    if size is not None:
        camera = shrink_camera(camera, size)
        background = cv2.resize(background, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    scale = np.array([camera.width / full_width, camera.height / full_height])
    splits = [_with_face_rects(data, split, full_width, full_height) for split in (index.train, index.val)]
    train, val = (dataclasses.replace(split, face_rect=_scaled(split.face_rect, scale)) for split in splits)

    last = max(int(ids.max()) for s in (train, val) if len(s) for ids in (s.aud_id, s.img_id))
    windows = _covering(schema.load_audio_windows(data), last + 1, data)
    frames = len(windows)
    lists = [train.aud_id, val.aud_id]
    return Dataset(
        path=data,
        camera=camera,
        near_far=index.near_far,
        train=train,
        val=val,
        background=background,
        windows=windows,
        mouth_rect=_scaled(_mouth_rects(data, frames, splits), scale),
        tracks=read_tracks(Clip(data, frames, last)),
        neighbours=neighbours_in_lists(lists, frames, zero_padded)
        if neighbours_by_list
        else neighbours_in_time(frames, zero_padded),
        speech=schema.speech_encoder(data),
        codes=tuple(CODES if codes is None else codes),
        stored=(full_height, full_width),
    )


def dataset_of(config) -> Dataset:
    """The dataset of a stage's configuration."""
    return load_dataset(
        config.data,
        config.size,
        zero_padded=config.compat.zero_padding,
        neighbours_by_list=config.compat.window_lists,
        codes=config.model.head.codes,
    )


def shrink_camera(camera: Camera, size: int) -> Camera:
    """The camera of pictures shrunk to `size` pixels on the longer side, by averaging areas.

    Raises:
      UserError: they are smaller already.
    """
    longest = max(camera.height, camera.width)
    if not 16 <= size <= longest:
        raise UserError(f"config.size is {size}: the frames can be shrunk to 16 … {longest} pixels")
    width, height = (max(round(side * size / longest), 1) for side in (camera.width, camera.height))
    across, down = width / camera.width, height / camera.height
    # The centre of the first pixel is at 0 before and after.
    cx, cy = (camera.cx + 0.5) * across - 0.5, (camera.cy + 0.5) * down - 0.5
    return Camera(camera.focal * size / longest, cx, cy, height=height, width=width)


def load_frames(dataset: Dataset, split: schema.Split) -> Frames:
    """Decodes the frames of a split with two threads: lossless ones where the dataset has them.

    Raises:
      UserError: a frame is missing or of another size.
    """
    camera = dataset.camera
    packed = np.empty((len(split), camera.height, camera.width, CHANNELS), np.uint8)

    def load(row: int) -> None:
        packed[row] = decode_frame(dataset, int(split.img_id[row]))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(load, range(len(split))))
    return Frames(split, packed)


def frame_files(dataset: Dataset, i: int) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path | None, bool]:
    """Part map, picture and silhouette of a frame, and whether the clean background is in the picture already.

    Raises:
      UserError: one is missing.
    """
    picture, composed = schema.find_composite(dataset.path, i)
    soft = dataset.path / schema.alpha_image(i)
    return schema.first_of(dataset.path, schema.parsings(i)), picture, soft if soft.exists() else None, composed


def decode_frame(dataset: Dataset, i: int) -> np.ndarray:
    """A frame, packed as in `Frames`, uint8 [H, W, 5].

    Raises:
      UserError: it is missing or of another size.
    """
    camera = dataset.camera

    def fit(picture: np.ndarray, how: int) -> np.ndarray:
        if dataset.stored == (camera.height, camera.width):
            return picture
        return cv2.resize(picture, (camera.width, camera.height), interpolation=how)

    map_path, path, soft, composed = frame_files(dataset, i)
    hard, image = read_parts(map_path), read_image(path)
    share = np.where(hard == BACKGROUND, 0, 255).astype(np.uint8) if soft is None else read_image(soft)[..., 0]
    for name, picture in ((path, image), (soft, share)):
        if picture.shape[:2] != hard.shape:
            raise UserError(
                f"{name} is {picture.shape[1]}x{picture.shape[0]}, its part map {hard.shape[1]}x{hard.shape[0]}: "
                f"prepare the dataset again"
            )
    if hard.shape != dataset.stored:
        height, width = dataset.stored
        raise UserError(
            f"frame {i} of {dataset.path} is {hard.shape[1]}x{hard.shape[0]}, its background is {width}x{height}: "
            f"prepare the dataset again"
        )
    image, hard = fit(image, cv2.INTER_AREA), fit(hard, cv2.INTER_NEAREST_EXACT)
    alpha = fit(share, cv2.INTER_AREA)
    image = image if composed else np.where(alpha[..., None] == 0, dataset.background, image)
    return pack_frame(image, extend_to_alpha(hard, alpha), alpha)


def tuning_split(split: schema.Split) -> tuple[schema.Split, schema.Split]:
    """The first nine tenths of the training frames and the last tenth: for tuning without the held-out frames."""
    cut = len(split) * 9 // 10
    return split.take(slice(0, cut)), split.take(slice(cut, None))


def _covering(windows: np.ndarray, frames: int, data: pathlib.Path) -> np.ndarray:
    """Windows of at least this number of frames: the last one is repeated where the sound is a little too short.

    Raises:
      UserError: it ends more than a second before the video.
    """
    short = frames - len(windows)
    if short > _SHORT_SOUND or not len(windows):
        raise UserError(
            f"{data}: {schema.windows_file(data).name} has {len(windows)} rows but the frames go up to {frames - 1}: "
            f"the sound ends {short / FPS:.1f} s before the video; prepare it again"
        )
    if short <= 0:
        return windows
    say(f"{data}: the sound ends {short} frame(s) before the video; the last speech window is repeated for them")
    return np.concatenate([windows, np.repeat(windows[-1:], short, axis=0)])


def _scaled(rects: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Rectangles x, y, width, height [N, 4] in a picture scaled by (across, down)."""
    return rects if (scale == 1.0).all() else np.round(rects * np.tile(scale, 2)).astype(rects.dtype)


def _with_face_rects(data: pathlib.Path, split: schema.Split, width: int, height: int) -> schema.Split:
    """The split with its face rectangles; where the index has none, from the landmarks, else around the head."""
    rects = split.face_rect.copy()
    for row in np.flatnonzero((rects < 0).all(1)):
        i = int(split.img_id[row])
        points = data / schema.landmark_file(i)
        if points.exists():
            rects[row] = face_rect(_landmarks_in(points), width, height)
            continue
        head = np.argwhere(read_parts(schema.first_of(data, schema.parsings(i))) == HEAD)
        if not len(head):
            raise UserError(
                f"{data}: frame {i} has no face_rect in the index, no {schema.landmark_file(i)} and no head in its "
                f"part map: prepare it again"
            )
        (top, left), (bottom, right) = head.min(0), head.max(0) + 1
        rects[row] = left, top, right - left, bottom - top
    return dataclasses.replace(split, face_rect=rects)


def _mouth_rects(data: pathlib.Path, frames: int, splits: list[schema.Split]) -> np.ndarray:
    """Around the lips' landmarks with half their size to each side; the face's lower middle where there are none."""
    rects = np.zeros((frames, 4), np.int32)
    for split in splits:
        for i, (x, y, width, height) in zip(split.img_id, split.face_rect, strict=True):
            rects[i] = x + width // 4, y + 6 * height // 10, width // 2, 4 * height // 10
            path = data / schema.landmark_file(i)
            if path.exists():
                lips = _landmarks_in(path)[48:68]
                low, high = lips.min(0), lips.max(0)
                size = np.array([high[0] - low[0], max(high[1] - low[1], 0.5 * (high[0] - low[0]))])
                centre = (low + high) / 2
                rects[i] = [*np.floor(centre - size), *np.ceil(2 * size)]
    return rects


def _landmarks_in(path: pathlib.Path) -> np.ndarray:
    """68 landmarks of a frame, [68, 2].

    Raises:
      UserError: the file holds something else.
    """
    try:
        points = np.loadtxt(path)
    except ValueError as error:
        raise UserError(f"{path} holds no landmarks ({error}): run the preparation again") from None
    if points.shape != (68, 2) or not np.isfinite(points).all():
        raise UserError(f"{path} does not hold 68 landmarks (x y): run the preparation again")
    return points
