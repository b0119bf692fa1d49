"""The held-out frames of a clip, rendered and paired with their ground truth."""

import dataclasses
import hashlib
import pathlib
import time
from collections.abc import Sequence, Set

import jax
import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.pixels import to_uint8
from adnerf_jax.common.types import ArrayLike
from adnerf_jax.data.datasets import SUBJECTS, Dataset, load_frames
from adnerf_jax.data.schema import Split
from adnerf_jax.evaluation.reporting.evaluation import ExampleFrame
from adnerf_jax.evaluation.scoring import Row
from adnerf_jax.face.parsing import HEAD
from adnerf_jax.inference.shards import frame_path, read_frame
from adnerf_jax.inference.trained_stage import TrainedStage
from adnerf_jax.media.image import read_image, write_image
from adnerf_jax.models.codes.registry import CODES, driven_codes, tracked_codes
from adnerf_jax.rendering.renderer import Layers

Pairs = dict[str, tuple[np.ndarray, np.ndarray]]  # setting: (render, ground truth), float [H, W, 3]


@dataclasses.dataclass(frozen=True)
class HeldOutFrame:
    """A rendered held-out frame.

    Attributes:
      truth: float [H, W, 3], the ground truth.
      parts: uint8 [H, W], part map of the ground truth.
      pairs: render and ground truth in each setting (`score_pairs`).
    """

    truth: np.ndarray
    parts: np.ndarray
    pairs: Pairs


class HeldOutFrames:
    """The held-out frames of a clip, rendered one at a time.

    Args:
      config, stage, dataset, split: the model and the frames.
      cache: folder that keeps the renders; None keeps none.
      done: numbers of the frames that are in the cache already.

    Attributes:
      digest: SHA-256 of the ground truth; the scoring loop updates it.
      provenance: origin to write into images and videos of the renders; None where `config.render.label` is off.
      seconds: render time of each frame that was not in the cache.
    """

    def __init__(
        self,
        config: ConfigDict,
        stage: TrainedStage,
        dataset: Dataset,
        split: Split,
        cache: pathlib.Path | None = None,
        done: Set[int] = frozenset(),
    ):
        self.config, self.stage, self.dataset, self.split = config, stage, dataset, split
        self.digest = hashlib.sha256()
        self.seconds: list[float] = []
        self.provenance = stage.provenance if config.render.label else None
        self._cache, self._done = cache, set(done)
        self._background = dataset.background.astype(np.float32) / 255.0

    def __len__(self) -> int:
        return len(self.split)

    def renders(self, i: int) -> dict[str, np.ndarray]:
        """Renders of frame `i` by `render_names`, uint8 [H, W, 3]; read from the cache where it has them."""
        names = render_names(self.config)
        if self._cache is not None and i in self._done:
            return dict(zip(names, np.split(read_frame(self._cache, i, read_image), len(names)), strict=True))
        start = time.monotonic()
        tracked = tracked_codes_of(self.config)
        conditions = self.dataset.conditions(self.split.aud_id[i : i + 1], tracked)
        layers = jax.device_get(self.stage.layers(self.split.transforms[i], conditions))
        self.seconds.append(time.monotonic() - start)
        images = [np.asarray(to_uint8(image)) for image in composite_renders(names, layers, self._background)]
        if self._cache is not None:
            write_image(frame_path(self._cache, i), np.concatenate(images))
            self._done.add(i)
        return dict(zip(names, images, strict=True))

    def frame(self, i: int) -> HeldOutFrame:
        """Frame `i` of the split with its ground truth."""
        loaded = load_frames(self.dataset, self.split.take(slice(i, i + 1)))
        truth, parts = loaded.images[0].astype(np.float32) / 255.0, loaded.parts[0]
        head_truth = loaded.showing(SUBJECTS["head"], slice(0, 1), self.dataset.background)[0]
        images = {name: image.astype(np.float32) / 255.0 for name, image in self.renders(i).items()}
        pairs = score_pairs(images, truth, head_truth.astype(np.float32) / 255.0, parts == HEAD)
        return HeldOutFrame(truth, parts, pairs)

    def examples(self, rows: Sequence[Row]) -> list[ExampleFrame]:
        """The best, the median and the worst frame by the PSNR of the setting in which most is rendered."""
        last = str(next(row["setting"] for row in reversed(rows) if row["setting"] != "cross"))
        psnr = np.array([row["psnr"] for row in rows if row["setting"] == last], np.float64)
        order = np.argsort(-psnr, kind="stable")
        chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
        examples = []
        for rank, i in chosen.items():
            pairs = self.frame(int(i)).pairs
            images = {name: (to_uint8(render), to_uint8(truth)) for name, (render, truth) in pairs.items()}
            examples.append(ExampleFrame(rank, int(self.split.img_id[i]), last, float(psnr[i]), images))
        return examples


def tracked_codes_of(config: ConfigDict) -> tuple[str, ...]:
    """The names in `config.eval.tracked_codes`.

    Raises:
      UserError: one is no code of the model, or a code without a measured input.
    """
    given = tuple(name.strip() for name in (config.eval.tracked_codes or "").split(",") if name.strip())
    allowed = [name for name in config.model.head.codes if name in tracked_codes()]
    for name in given:
        if name not in allowed:
            raise UserError(
                f"config.eval.tracked_codes names {name!r}, which is no code of this model with a measured input: "
                + (f"name {' or '.join(allowed)}" if allowed else "leave it out")
            )
    return given


def describe_smoothing(config: ConfigDict) -> str:
    """How the condition codes of the renders average over time, for the protocol; the pictures are not smoothed."""
    measured = (*driven_codes(), *tracked_codes_of(config))
    parts = {"audio": "attention over eight frames"} if config.eval.attention else {}
    parts |= {name: code.smoothing for name, code in CODES.items() if code.smoothing and name not in measured}
    found = [f"code {name}: {parts[name]}" for name in config.model.head.codes if name in parts]
    return "; ".join(found) or "none"


def describe_inputs(config: ConfigDict) -> dict[str, str]:
    """Where the poses and each condition code of the renders come from, for the protocol."""
    measured = (*driven_codes(), *tracked_codes_of(config))
    truth = "measured in the evaluated frames themselves"
    codes = {name: truth if name in measured else "the clip's speech" for name in config.model.head.codes}
    return {"poses": truth} | {f"code {name}": source for name, source in codes.items()}


def render_names(config: ConfigDict) -> tuple[str, ...]:
    """The renders that a stage can make: `head` (over the clean background), `full` (everything), or both."""
    if config.stage == "torso":
        return "head", "full"
    return ("full",) if config.subject == "person" else ("head",)


def composite_renders(names: Sequence[str], layers: Layers, background: np.ndarray) -> list[ArrayLike]:
    """The layers composited over a background for each of `render_names`, float [H, W, 3]."""
    over = {"head": layers.head_over, "full": layers.person_over}
    return [over[name](background) for name in names]


def score_pairs(images: dict[str, np.ndarray], truth: np.ndarray, head_truth: np.ndarray, is_head: np.ndarray) -> Pairs:
    """(render, ground truth) of each setting that a stage's renders allow, float [H, W, 3].

    `head_only`: the rendered head over the clean background, against the ground truth's head over the same. `head`: the
    rendered head composited with the ground truth's torso and background. `full`: everything rendered; a head stage has
    it where its subject is the whole person.

    Args:
      images: renders by `render_names`, float [H, W, 3].
      truth: the frame, float [H, W, 3].
      head_truth: the frame's head over the clean background, float [H, W, 3].
      is_head: bool [H, W], the head's pixels in the ground truth.
    """
    pairs: Pairs = {}
    if "head" in images:
        composited = np.where(is_head[..., None], images["head"], truth)
        pairs = {"head_only": (images["head"], head_truth), "head": (composited, truth)}
    return pairs | ({"full": (images["full"], truth)} if "full" in images else {})
