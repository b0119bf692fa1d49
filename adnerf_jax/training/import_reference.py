"""Import of checkpoints of the published PyTorch code, to workdirs that can be rendered, evaluated and trained further.

A head is `*_head.tar`, a torso `*_body.tar` with the head of the same step (published `run_nerf.py`). Weights, Adam's
moments and the step are converted; the sizes of the models are inferred from the shapes of the tensors.
"""

import itertools
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import struct
from ml_collections import ConfigDict

from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.progress import say
from adnerf_jax.configuration.checks import check_settings
from adnerf_jax.data.datasets import Dataset, Frames, dataset_of
from adnerf_jax.data.frame_cache import cached_frames
from adnerf_jax.data.person import Person
from adnerf_jax.data.scenes import make_scene
from adnerf_jax.models.codes.registry import make_codes
from adnerf_jax.pretrained import torch_pickle
from adnerf_jax.training import checkpoints, sharding
from adnerf_jax.training.optim import AdamMoments, make_optimizer, with_moments
from adnerf_jax.training.runs import check_empty, checkpoint_metadata, save_config
from adnerf_jax.training.stages import example_batch, make_stage
from adnerf_jax.training.state import TrainState

_FIELDS = {"coarse": "network_fn_state_dict", "fine": "network_fine_state_dict"}


@struct.dataclass
class ReferenceNet:
    """One network of a checkpoint in this project's names and layout.

    Attributes:
      params: its parameters.
      first, second: Adam's moments of them, zeros where the file has none.
    """

    params: dict[str, Any]
    first: dict[str, Any]
    second: dict[str, Any]


@struct.dataclass
class ReferenceCheckpoint:
    """A `.tar` of the published code.

    Attributes:
      path: path of the file.
      step: updates done.
      adam_steps: updates of the moments, by the optimizer's group: attention is updated from a later step on.
      fields: `coarse` and `fine`.
      audio, attention: the audio nets; attention is None where the file has none, like a torso's.
    """

    path: pathlib.Path = struct.field(pytree_node=False)
    step: int
    adam_steps: dict[str, int]
    fields: dict[str, ReferenceNet]
    audio: ReferenceNet
    attention: ReferenceNet | None


def read_checkpoint(path: str | pathlib.Path) -> ReferenceCheckpoint:
    """Reads and checks a published checkpoint; nothing in it is executed.

    Raises:
      UserError: it is damaged, hostile, incomplete or of another program, or holds numbers that are not finite.
    """
    path = pathlib.Path(path)
    stored = torch_pickle.load(path)
    if not isinstance(stored, dict):
        raise UserError(f"{path} is not a checkpoint of AD-NeRF: it holds no dictionary")
    needed = ("global_step", *_FIELDS.values(), "network_audnet_state_dict")
    missing = [key for key in needed if key not in stored]
    if missing:
        raise UserError(f"{path} is not a checkpoint of AD-NeRF: {', '.join(missing)} missing")
    try:
        return _read(stored, path)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is not a checkpoint of AD-NeRF: its parts are of another kind ({type(error).__name__}: {error})"
        ) from None


def _read(stored: dict[str, Any], path: pathlib.Path) -> ReferenceCheckpoint:
    networks = _Moments(stored.get("optimizer_state_dict"))
    fields = {}
    for name, key in _FIELDS.items():
        # One optimizer has the parameters of the coarse network, then those of the fine one.
        fields[name] = _net(stored[key], _field_name, networks, path, key)
    key, moments = "network_audnet_state_dict", _Moments(stored.get("optimizer_aud_state_dict"))
    audio = _net(stored[key], _audio_name, moments, path, key)
    attention, key = None, "network_audattnet_state_dict"
    adam_steps = {"networks": networks.step}
    if key in stored:
        moments = _Moments(stored.get("optimizer_audatt_state_dict"))
        attention = _net(stored[key], _attention_name, moments, path, key)
        adam_steps["attention"] = moments.step
        if not moments.step:
            say(f"{path.name} has no moments of the attention net: they begin at zero if it is trained further")
    # The published code saves after an update, before it counts it.
    counted, done = int(stored["global_step"]) + bool(networks.step), networks.step
    if not 0 <= counted < 2**31:
        raise ValueError(f"{counted} steps")
    if counted < done:
        # The head that a torso's training saves beside itself has the torso's step.
        say(f"{path.name} has {counted} steps, its optimizer {done}: the optimizer's count is used")
    return ReferenceCheckpoint(path, max(counted, done), adam_steps, fields, audio, attention)


class _Moments:
    """Adam's moments of a PyTorch optimizer, in the order of its parameters."""

    def __init__(self, optimizer: dict[str, Any] | None) -> None:
        optimizer = optimizer or {}
        self._state = optimizer.get("state", {})
        # Parameters are numbered, in old files arbitrarily: the groups list them in order.
        groups = optimizer.get("param_groups", [])
        names = [name for group in groups for name in group.get("params", [])]
        self._names = iter(names) if names else itertools.count()
        self.step = max((int(np.asarray(entry["step"])) for entry in self._state.values()), default=0)
        if not 0 <= self.step < 2**31:
            raise ValueError(f"{self.step} updates of Adam")

    def take(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """First and second moments of the next parameter; zeros where the optimizer has none."""
        entry = self._state.get(next(self._names, None))
        if entry is None:
            return np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        return np.asarray(entry["exp_avg"]), np.asarray(entry["exp_avg_sq"])


def _net(
    stored: dict[str, np.ndarray],
    rename: Callable[[str], str | None],
    moments: _Moments,
    path: pathlib.Path,
    key: str,
) -> ReferenceNet:
    """A network; `rename` maps a layer's published name to the one here, None for a layer that is never used."""
    trees: tuple[dict, dict, dict] = ({}, {}, {})
    for name, value in stored.items():
        layer, _, kind = name.rpartition(".")
        if kind not in ("weight", "bias") or not hasattr(value, "shape"):
            raise UserError(f"{path}: {key} has an entry {name}, which no network of AD-NeRF has")
        if not value.shape:
            raise UserError(f"{path}: {key}/{name} is a single number, which no layer of AD-NeRF has")
        arrays = (value, *moments.take(value.shape))
        place = rename(layer)
        if place is None:
            continue
        for tree, array in zip(trees, arrays, strict=True):
            if array.shape != value.shape:
                raise UserError(f"{path}: the optimizer's moments of {key}/{name} have another shape")
            if not np.isfinite(array).all():
                raise UserError(f"{path}: {key}/{name} holds numbers that are not finite: take an earlier checkpoint")
            # PyTorch keeps linear layers [out, in] and convolutions [out, in, width].
            turned = array.transpose() if kind == "weight" else array
            tree.setdefault(place, {})["kernel" if kind == "weight" else "bias"] = np.array(turned, np.float32)
    return ReferenceNet(*trees)


def _field_name(layer: str) -> str | None:
    kind, _, number = layer.partition(".")
    if kind == "feature_linear":
        return None
    names = {"pts_linears": "layer", "views_linears": "colour", "alpha_linear": "density", "rgb_linear": "colour"}
    return names.get(kind, layer) + number


def _audio_name(layer: str) -> str:
    kind, _, number = layer.partition(".")
    if kind == "encoder_conv":
        return f"conv{int(number) // 2}"
    return {"encoder_fc1.0": "hidden", "encoder_fc1.2": "out"}.get(layer, layer)


def _attention_name(layer: str) -> str:
    kind, _, number = layer.partition(".")
    return f"conv{int(number) // 2}" if kind == "attentionConvNet" else "out"


def infer_sizes(checkpoint: ReferenceCheckpoint, code: int) -> dict[str, int]:
    """The sizes of a checkpoint's fields, as the configuration names them.

    Args:
      checkpoint: the checkpoint.
      code: size of the condition code, which the first layer reads beside the encoded position.

    Raises:
      UserError: the tensors do not fit together.
    """

    def of(field: ReferenceNet) -> dict[str, int]:
        params = field.params
        depth = sum(name.startswith("layer") for name in params)
        colours = sum(name.startswith("colour") and name != "colour" for name in params)
        inputs, width = params["layer0"]["kernel"].shape
        skips = [i for i in range(1, depth) if len(params[f"layer{i}"]["kernel"]) != width]
        if len(skips) != 1:
            raise ValueError("they have not exactly one skip connection")
        return {
            "width": width,
            "depth": depth,
            "skip": skips[0] - 1,
            "colour_width": params["colour0"]["kernel"].shape[1],
            "colour_depth": colours,
            "position_levels": _levels(inputs - code),
            "direction_levels": _levels(len(params["colour0"]["kernel"]) - width),
        }

    try:
        coarse, fine = (of(checkpoint.fields[name]) for name in _FIELDS)
    except (IndexError, KeyError, ValueError) as error:
        raise UserError(f"{checkpoint.path}: the tensors are not those of AD-NeRF's fields: {error}") from None
    if coarse != fine:
        raise UserError(f"{checkpoint.path}: the coarse and the fine network differ in size, which is not supported")
    return coarse


def _levels(size: int) -> int:
    """Levels L of a positional encoding of three coordinates, which has 3·(1 + 2L) numbers."""
    levels, rest = divmod(size - 3, 6)
    if rest or levels < 0:
        raise ValueError(f"{size} numbers are no encoding of three coordinates")
    return levels


def import_reference(head_config: ConfigDict, torso_config: ConfigDict | None, workdir: str | pathlib.Path) -> None:
    """Writes `workdir/head`, and `workdir/torso` for a torso, from published checkpoints.

    Args:
      head_config: the head stage's configuration, with `data` and `reference.head`.
      torso_config: the torso stage's configuration, with `reference.body`; None: no torso.
      workdir: the folder for both.

    Raises:
      UserError: a file that is missing or cannot be used, settings out of range, a dataset that does not fit, or a
        workdir in use.
    """
    workdir = pathlib.Path(workdir)
    _check_given(head_config, torso_config, workdir)
    head_file = read_checkpoint(head_config.reference.head)
    body_file = None if torso_config is None else read_checkpoint(torso_config.reference.body)
    channels = _set_sizes(head_config, torso_config, head_file, body_file, workdir / "head")
    dataset = dataset_of(head_config)
    if dataset.windows.shape[2] != channels:
        raise UserError(
            f"{head_file.path} was trained on speech features with {channels} channels, {head_config.data} has "
            f"{dataset.windows.shape[2]}: prepare its video again, with a file of its DeepSpeech features "
            f"as the speech of `python -m adnerf_jax.preprocessing`"
        )
    frames, digest = cached_frames(dataset, dataset.train)
    head_params = _params(head_file, with_audio=True)
    imported = [(head_config, head_file, _state(head_config, dataset, frames, head_file, head_params, {}))]
    if torso_config is not None and body_file is not None:
        torso_params = _params(body_file, with_audio=False)
        state = _state(torso_config, dataset, frames, body_file, torso_params, head_params)
        imported.append((torso_config, body_file, state))
    # All files are checked before any is written, and a stage's folder appears when it is complete.
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".importing-", dir=workdir) as unfinished:
        for config, _, state in imported:
            _write(config, pathlib.Path(unfinished) / config.stage, dataset, digest, state)
        for config, file, _ in imported:
            (pathlib.Path(unfinished) / config.stage).rename(workdir / config.stage)
            say(f"wrote {workdir / config.stage}: {file.path.name} after {file.step} steps")


def _check_given(head_config: ConfigDict, torso_config: ConfigDict | None, workdir: pathlib.Path) -> None:
    """Raises UserError for variants, for a checkpoint that is not given, and for a workdir in use."""
    if head_config.family != "paper" or tuple(head_config.model.head.codes) != ("audio",):
        raise UserError("published checkpoints are of the paper's family, with the audio code: leave the variants out")
    for name, config in (("head", head_config), ("body", torso_config)):
        if config is not None and not config.reference[name]:
            raise UserError("give the published checkpoint with ", Option(f"reference.{name}", f"X_{name}.tar"))
    for config in (head_config, torso_config):
        if config is not None:
            check_empty(workdir / config.stage)


def _set_sizes(
    head_config: ConfigDict,
    torso_config: ConfigDict | None,
    head_file: ReferenceCheckpoint,
    body_file: ReferenceCheckpoint | None,
    head_workdir: pathlib.Path,
) -> int:
    """Sets the sizes of the models in the configurations to those of the checkpoints.

    Args:
      head_config, torso_config: the configurations, which are changed.
      head_file, body_file: checkpoints of the head, and of the torso where there is one.
      head_workdir: where the head will be.

    Returns:
      the channels of the speech features.

    Raises:
      UserError: the tensors do not fit together, or the sizes are out of range.
    """
    channels, audio_code = _audio_sizes(head_file)
    sizes = infer_sizes(head_file, audio_code)
    configs = [config for config in (head_config, torso_config) if config is not None]
    for config in configs:
        with config.unlocked():
            config.model.head.update(sizes, audio_code=audio_code)
    if torso_config is not None and body_file is not None:
        pose = _pose_size(body_file, head_file)
        with torso_config.unlocked():
            torso_config.model.torso.pose_levels = _levels(pose // 2)
            torso_config.model.torso.update(infer_sizes(body_file, audio_code + pose))
            torso_config.head_checkpoint = str(head_workdir)
    for config in configs:
        check_settings(config)
    return channels


def _pose_size(body_file: ReferenceCheckpoint, head_file: ReferenceCheckpoint) -> int:
    """Numbers in the encoded pose, which a torso's field reads beside the inputs of a head's.

    Raises:
      UserError: the first layers differ by another number.
    """
    try:
        body, head = (len(file.fields["coarse"].params["layer0"]["kernel"]) for file in (body_file, head_file))
        _levels((body - head) // 2)
    except (KeyError, ValueError):
        raise UserError(f"{body_file.path} does not belong to {head_file.path}: other audio codes") from None
    return body - head


def _audio_sizes(checkpoint: ReferenceCheckpoint) -> tuple[int, int]:
    """Channels of the speech features, and numbers in the audio code."""
    try:
        params = checkpoint.audio.params
        return params["conv0"]["kernel"].shape[1], params["out"]["kernel"].shape[1]
    except (IndexError, KeyError):
        raise UserError(f"{checkpoint.path}: the tensors are not those of AD-NeRF's AudioNet") from None


def _params(checkpoint: ReferenceCheckpoint, *, with_audio: bool, part: str = "params") -> dict[str, Any]:
    """The parameters (or `first`, `second` moments) of a stage as its model names them."""
    tree = {"volume": {name: getattr(net, part) for name, net in checkpoint.fields.items()}}
    if with_audio:
        if checkpoint.attention is None:
            raise UserError(f"{checkpoint.path} has no attention net (network_audattnet_state_dict): is it a body?")
        nets = {"net": checkpoint.audio, "attention": checkpoint.attention}
        tree["code_nets"] = {"audio": {name: getattr(net, part) for name, net in nets.items()}}
    return tree


def _state(
    config: ConfigDict,
    dataset: Dataset,
    frames: Frames,
    checkpoint: ReferenceCheckpoint,
    params: dict[str, Any],
    frozen: dict[str, Any],
) -> TrainState:
    """The state from which a training can continue.

    Raises:
      UserError: the tensors do not fit together.
    """
    stage = make_stage(config, dataset.camera)
    scene = make_scene(dataset, frames, make_codes(config.model.head).members, config.train.audio_components)
    expected = jax.eval_shape(stage.init, jax.random.key(0), example_batch(1, 1, dataset.windows.shape[1:]), scene)
    have, want = (jax.tree.map(np.shape, tree) for tree in (params, expected))
    if have != want:
        raise UserError(f"{checkpoint.path}: the tensors do not fit together: {_first_difference(have, want)}")
    tx = make_optimizer(config.optim, config.train.attention_from)
    moments = AdamMoments(
        checkpoint.adam_steps,
        *(_params(checkpoint, with_audio=config.stage == "head", part=part) for part in ("first", "second")),
    )
    state = TrainState.create(params, tx, frozen, scene)
    return state.replace(
        step=np.int32(checkpoint.step), opt_state=with_moments(state.opt_state, moments, checkpoint.step)
    )


def _write(config: ConfigDict, workdir: pathlib.Path, dataset: Dataset, digest: str, state: TrainState) -> None:
    everywhere = sharding.replicated(sharding.make_mesh())
    state = jax.tree.map(lambda a: jax.device_put(a, everywhere), state)
    with checkpoints.Saver(workdir, config.train.keep_checkpoints) as saver:
        saver.save(state, checkpoint_metadata(config, digest))
    Person.of(dataset).save(workdir)
    save_config(config, workdir)


def _first_difference(have: Any, want: Any, at: str = "") -> str:
    if not isinstance(have, dict) or not isinstance(want, dict):
        return f"{at} is {have}, expected {want}"
    for key in sorted(have.keys() | want.keys()):
        if have.get(key) != want.get(key):
            return _first_difference(have.get(key, "absent"), want.get(key, "absent"), f"{at}/{key}".lstrip("/"))
    return ""
