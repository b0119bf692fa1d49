"""Published checkpoints to workdirs: they render what the published code renders, and training continues."""

import json
import os
import pathlib
import pickle
import zipfile

import chex
import jax
import numpy as np
import pytest
import tiny
import torch_files

import run
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import dataset_of
from adnerf_jax.data.frame_cache import cached_frames
from adnerf_jax.nerf.cameras import rays_through
from adnerf_jax.nerf.compositing import over
from adnerf_jax.pretrained import torch_pickle
from adnerf_jax.training import checkpoints, sharding
from adnerf_jax.training.import_reference import read_checkpoint
from adnerf_jax.training.initialise import initial_state
from adnerf_jax.training.runs import load_config
from adnerf_jax.training.stages import make_stage

pytestmark = pytest.mark.usefixtures("quick_compilation")

DATA = pathlib.Path(__file__).parents[1] / "data"
ROOT = pathlib.Path(run.__file__).parent
HEAD, BODY = DATA / "000000_head.tar", DATA / "000000_body.tar"
SIZES = [
    f"--config.model.{stage}.{name}" for stage in ("head", "torso") for name in ("coarse_samples=16", "fine_samples=32")
]
QUICK = ["--config.eval.every=2", "--config.eval.lpips=", "--config.eval.faces=False"]
SMALL = ["--config.train.rays=64", "--config.train.micro_batches=1", "--config.train.validate_frames=1"]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(DATA / "golden.npz", allow_pickle=False) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    """A dataset with the golden run's camera, poses and speech; its pictures are the upper left corner of frames."""
    folder = tiny.make_dataset(tmp_path_factory.mktemp("golden") / "dataset", channels=29)
    # The held-out frames bring the mean depth to the golden run's.
    depths = np.einsum("nj,nj->n", golden["poses"][:, :3, 2], golden["poses"][:, :3, 3].astype(np.float64))
    rest = (12 * (golden["near"] + schema.NEAR_MARGIN) - depths.sum()) / 2
    held_out = np.eye(4)
    held_out[2, 3] = rest
    for name, poses in (("train", golden["poses"]), ("val", [held_out, held_out])):
        path = folder / schema.TRANSFORMS[name]
        meta = json.loads(path.read_text())
        meta.update({"focal_len": float(golden["focal"]), "cx": float(golden["cx"]), "cy": float(golden["cy"])})
        for frame, pose in zip(meta["frames"], poses, strict=True):
            frame["transform_matrix"] = np.asarray(pose, float).tolist()
        path.write_text(json.dumps(meta))
    windows = np.load(folder / schema.AUDIO_WINDOWS)
    windows[:10] = golden["deepspeech_windows"]
    np.save(folder / schema.AUDIO_WINDOWS, windows)
    return folder


def command(stage: str, data, workdir, *more, head=HEAD, body=BODY) -> list[str]:
    arguments = [
        f"--config={ROOT}/configs/{stage}.py",
        "--mode=import",
        f"--config.data={data}",
        f"--workdir={workdir}",
    ]
    arguments += [f"--config.reference.head={head}"] if head else []
    arguments += [f"--config.reference.body={body}"] if body and stage == "torso" else []
    sizes = [size for size in SIZES if stage == "torso" or ".head." in size]
    return ["run.py", *arguments, *sizes, *SMALL, *map(str, more)]


@pytest.fixture(scope="module")
def imported(tmp_path_factory, data):
    """The workdir of both golden checkpoints."""
    workdir = tmp_path_factory.mktemp("imported") / "both"
    assert run.main(command("torso", data, workdir)) == 0
    return workdir


def restored(workdir):
    """The saved configuration, and the newest checkpoint without the optimizer."""
    step, parts = checkpoints.restore_for_use(workdir, sharding.replicated(sharding.make_mesh()))
    return load_config(workdir), step, parts


def test_the_workdir_renders_what_the_published_code_rendered(imported, golden, data):
    config, step, parts = restored(imported / "torso")
    assert step == 0
    dataset = dataset_of(config)
    # Nothing but the files: ranges, the static camera and the windows come from the dataset.
    assert parts["scene"].near == pytest.approx(float(golden["near"]), abs=1e-6)
    assert parts["scene"].far == pytest.approx(float(golden["far"]), abs=1e-6)
    stage, camera = make_stage(config, dataset.camera), dataset.camera
    pixels = golden["ray_rows_cols"].astype(np.float32)[None]
    transforms, conditions = dataset.train.transforms[1:2], dataset.conditions(np.array([5]))

    @jax.jit
    def composite(params, frozen, scene):
        head, torso = {"params": frozen}, {"params": params}
        codes = stage.head.apply(head, conditions, scene, method="codes")
        rays = rays_through(pixels, transforms, camera)
        behind = stage.head.apply(head, rays, codes, golden["bg"][None], scene).rendered
        layers = stage.torso.apply(torso, pixels, camera, transforms, codes["audio"], scene)
        return codes["audio"][0], [over(*layer, level.rgb)[0] for layer, level in zip(layers, behind, strict=True)]

    code, levels = composite(parts["params"], parts["frozen"], parts["scene"])
    np.testing.assert_allclose(code, golden["audio_code_smoothed"], atol=1e-5)
    for rgb, name in zip(levels, ("composite_rgb_coarse", "composite_rgb"), strict=True):
        np.testing.assert_allclose(rgb, golden[name], atol=1e-4)


def test_the_workdirs_are_as_training_leaves_them(imported, data):
    head, torso = (load_config(imported / stage) for stage in ("head", "torso"))
    assert (head.stage, torso.stage) == ("head", "torso")
    for config in (head, torso):
        assert (config.model.head.width, config.model.head.colour_width, config.model.head.coarse_samples) == (
            32,
            16,
            16,
        )
        assert all(config.compat.values())  # published weights were made with the published mistakes
        assert config.data == str(data)
    assert (torso.model.torso.pose_levels, torso.model.torso.width) == (3, 32)
    assert torso.head_checkpoint == str(imported / "head")
    parts = [restored(imported / stage)[2] for stage in ("head", "torso")]
    chex.assert_trees_all_equal(parts[0]["params"], parts[1]["frozen"])
    chex.assert_trees_all_equal(parts[0]["scene"], parts[1]["scene"])


def test_the_command_line_overrides_published_mistakes(data, tmp_path):
    assert run.main(command("head", data, tmp_path, "--config.compat.face_rect=False")) == 0
    compat = load_config(tmp_path / "head").compat
    assert not compat.face_rect and compat.torso_angles and compat.zero_padding
    assert not (tmp_path / "torso").exists()


@pytest.mark.parametrize("stage", ["head", "torso"])
def test_evaluation_runs_on_an_import(imported, stage):
    arguments = [f"--config={ROOT}/configs/{stage}.py", "--mode=eval", f"--workdir={imported / stage}"]
    assert run.main(["run.py", *arguments, "--config.render.occupancy=8", *QUICK]) == 0
    metrics = json.loads((imported / stage / "eval/metrics.json").read_text())
    names = ["head_only", "head"] + (["full"] if stage == "torso" else [])
    assert list(metrics["settings"]) == names
    assert all(np.isfinite(v) for values in metrics["settings"].values() for v in values.values())


# The parameters' numbers in order, also of those that never had a gradient.
GROUPS = [{"params": list(range(60))}]


def with_moments(stored: dict, step: int, attention_step: int, seed: int = 0) -> dict:
    """A checkpoint with optimizer states as PyTorch keeps them, of random numbers."""
    rng = np.random.default_rng(seed)

    def state(names_and_shapes, step):
        return {
            number: {
                "step": np.array(step, np.float32),
                "exp_avg": rng.normal(size=shape).astype(np.float32),
                "exp_avg_sq": rng.uniform(0.5, 1.0, shape).astype(np.float32),
            }
            for number, (name, shape) in enumerate(names_and_shapes)
            if "feature_linear" not in name  # never used, so never updated
        }

    def shapes(*keys):
        return [(name, value.shape) for key in keys for name, value in stored[key].items()]

    networks = state(shapes("network_fn_state_dict", "network_fine_state_dict"), step)
    made = stored | {"global_step": step - 1, "optimizer_state_dict": {"state": networks, "param_groups": GROUPS}}
    audio = state(shapes("network_audnet_state_dict"), step)
    made["optimizer_aud_state_dict"] = {"state": audio, "param_groups": GROUPS}
    if "network_audattnet_state_dict" in stored:
        attention = state(shapes("network_audattnet_state_dict"), attention_step) if attention_step else {}
        made["optimizer_audatt_state_dict"] = {"state": attention, "param_groups": GROUPS}
    return made


@pytest.fixture
def torch(monkeypatch):
    return torch_files.stand_in(monkeypatch)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_moments_and_steps_are_imported(torch, data, tmp_path, legacy):
    stored = with_moments(torch_pickle.load(HEAD), 1001, 400)
    head = torch_files.save(torch, tmp_path / "001000_head.tar", stored, legacy)
    stored_body = with_moments(torch_pickle.load(BODY), 501, 0, seed=1)
    body = torch_files.save(torch, tmp_path / "000500_body.tar", stored_body, legacy)
    assert run.main(command("torso", data, tmp_path / "w", head=head, body=body)) == 0
    for stage, step, kept in (("head", 1001, stored), ("torso", 501, stored_body)):
        config = load_config(tmp_path / "w" / stage)
        dataset = dataset_of(config)
        built = make_stage(config, dataset.camera)
        frames = cached_frames(dataset, dataset.train)
        state, _ = initial_state(config, built, dataset, *frames, sharding.make_mesh(), tmp_path / "w" / stage)
        assert int(state.step) == step
        groups = {name: masked.inner_state for name, masked in state.opt_state.inner_states.items()}
        adam, schedule = groups["networks"]
        assert int(adam.count) == int(schedule.count) == step
        networks = kept["optimizer_state_dict"]["state"]
        names = [(key, name) for key in ("network_fn_state_dict", "network_fine_state_dict") for name in kept[key]]
        for level, key in (("coarse", "network_fn_state_dict"), ("fine", "network_fine_state_dict")):
            for layer, place in (("pts_linears.5", "layer5"), ("rgb_linear", "colour"), ("alpha_linear", "density")):
                entry = networks[names.index((key, f"{layer}.weight"))]
                np.testing.assert_array_equal(adam.mu["volume"][level][place]["kernel"], entry["exp_avg"].T)
                np.testing.assert_array_equal(adam.nu["volume"][level][place]["kernel"], entry["exp_avg_sq"].T)
                entry = networks[names.index((key, f"{layer}.bias"))]
                np.testing.assert_array_equal(adam.mu["volume"][level][place]["bias"], entry["exp_avg"])
        if stage == "torso":
            continue
        audio = kept["optimizer_aud_state_dict"]["state"]
        mu = adam.mu["code_nets"]["audio"]["net"]
        np.testing.assert_array_equal(mu["conv1"]["kernel"], audio[2]["exp_avg"].transpose(2, 1, 0))
        np.testing.assert_array_equal(mu["out"]["kernel"], audio[10]["exp_avg"].T)
        masked, schedule = groups["attention"]
        # The published attention net has an optimizer of its own, which begins later.
        assert (int(masked.inner_state.count), int(masked.step), int(schedule.count)) == (400, 1001, 1001)
        attention = kept["optimizer_audatt_state_dict"]["state"]
        mu = masked.inner_state.mu["code_nets"]["audio"]["attention"]
        np.testing.assert_array_equal(mu["conv0"]["kernel"], attention[0]["exp_avg"].transpose(2, 1, 0))
        np.testing.assert_array_equal(mu["out"]["bias"], attention[11]["exp_avg"])


def test_moments_of_old_files_are_numbered_by_their_groups(torch, tmp_path):
    # Before 1.5, PyTorch numbered parameters by their places in memory; only the groups keep their order.
    stored = with_moments(torch_pickle.load(HEAD), 1001, 400)
    old = dict(stored)
    for name in ("optimizer_state_dict", "optimizer_aud_state_dict", "optimizer_audatt_state_dict"):
        places = [(7919 * (i + 1)) % 100_003 for i in range(60)]
        state = {places[number]: entry for number, entry in reversed(stored[name]["state"].items())}
        old[name] = {"state": state, "param_groups": [{"params": places[:20]}, {"params": places[20:]}]}
    assert sorted(places) != places
    read = [
        read_checkpoint(torch_files.save(torch, tmp_path / f"{number}.tar", value))
        for number, value in enumerate((stored, old))
    ]
    chex.assert_trees_all_equal(read[1].replace(path=read[0].path), read[0])


@pytest.mark.parametrize("stage", ["head", pytest.param("torso", marks=pytest.mark.slow)])
def test_training_continues_from_an_import(torch, data, tmp_path, stage):
    stored = with_moments(torch_pickle.load(HEAD), 1001, 0)
    head = torch_files.save(torch, tmp_path / "001000_head.tar", stored)
    assert run.main(command(stage, data, tmp_path / "w", head=head)) == 0
    workdir, first = tmp_path / "w" / stage, {"head": 1001, "torso": 0}[stage]
    before = restored(workdir)[2]["params"]
    stages = ("head", "torso")[: 1 + (stage == "torso")]
    # Sizes that were found in the tensors are given again, like every setting of a run that is resumed.
    sizes = [f"--config.model.{s}.{size}" for s in stages for size in ("width=32", "colour_width=16")]
    sizes += [size for size in SIZES if stage == "torso" or ".head." in size]
    arguments = [f"--config={ROOT}/configs/{stage}.py", f"--workdir={workdir}", f"--config.data={data}"]
    arguments += ["--config.compat.reference=True", f"--config.train.steps={first + 2}", "--config.train.log_every=1"]
    arguments += ["--config.train.attention_from=200000"] if stage == "head" else []
    assert run.main(["run.py", *arguments, *sizes, *SMALL]) == 0
    lines = tiny.lines(workdir / "metrics.jsonl")
    assert [line["step"] for line in lines] == [first + 1, first + 2]
    assert np.isfinite([line["loss"] for line in lines]).all()
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), restored(workdir)[2]["params"], before)
    # Two steps of Adam at a rate of 5e-4; with the head's moments, of at most about four times that.
    assert 1e-5 < max(jax.tree.leaves(moved["volume"])) < 0.01
    if stage == "head":
        assert max(jax.tree.leaves(moved["code_nets"]["audio"]["net"])) > 1e-5
        assert max(jax.tree.leaves(moved["code_nets"]["audio"]["attention"])) == 0  # before its beginning


def refused(capsys, arguments: list[str], workdir) -> str:
    """Runs an import that must fail: its one line. Nothing is left behind."""
    capsys.readouterr()
    assert run.main(arguments) == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and err.rstrip().splitlines()[-1] == errors[0] and "Traceback" not in err and out == ""
    assert not workdir.exists()
    return errors[0]


def changed(stored: dict, key: str, name: str, value) -> dict:
    """A checkpoint with one tensor replaced, or left out where the value is None."""
    tensors = {n: (value if n == name else a) for n, a in stored[key].items()}
    return stored | {key: {n: a for n, a in tensors.items() if a is not None}}


def nan_in(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flat[3] = np.nan
    return array


COARSE, FINE, AUDIO = "network_fn_state_dict", "network_fine_state_dict", "network_audnet_state_dict"
SPOILT = {
    "another program's": (lambda s: {"model": s[COARSE]}, "is not a checkpoint of AD-NeRF: global_step, network_fn_"),
    "a list": (lambda s: [1, 2], "is not a checkpoint of AD-NeRF: it holds no dictionary"),
    "no fine network": (
        lambda s: {k: v for k, v in s.items() if k != FINE},
        "is not a checkpoint of AD-NeRF: network_fine_state_dict missing",
    ),
    "a number for a network": (lambda s: s | {COARSE: 7}, "its parts are of another kind"),
    "fewer steps than none": (lambda s: s | {"global_step": -5}, "its parts are of another kind (ValueError: -"),
    "more steps than there can be": (lambda s: s | {"global_step": 2**40}, "its parts are of another kind"),
    "a step without an end": (lambda s: s | {"global_step": float("inf")}, "its parts are of another kind"),
    "a number for a layer": (
        lambda s: changed(s, COARSE, "pts_linears.0.weight", np.zeros((), np.float32)),
        "network_fn_state_dict/pts_linears.0.weight",
    ),
    "text for a step": (lambda s: s | {"global_step": "many"}, "its parts are of another kind"),
    "moments of another optimizer": (
        lambda s: s | {"optimizer_state_dict": {"state": {0: {"momentum_buffer": np.zeros(3, np.float32)}}}},
        "its parts are of another kind",
    ),
    "moments of another shape": (
        lambda s: s | {"optimizer_state_dict": {"state": {0: {
            "step": np.array(3), "exp_avg": np.zeros(3, np.float32), "exp_avg_sq": np.zeros(3, np.float32)}}}},
        "the optimizer's moments of network_fn_state_dict/pts_linears.0.weight have another shape",
    ),
    "an unknown layer": (
        lambda s: s | {COARSE: s[COARSE] | {"norm.running_mean": np.zeros(32, np.float32)}},
        "network_fn_state_dict has an entry norm.running_mean, which no network of AD-NeRF has",
    ),
    "a missing layer": (
        lambda s: changed(changed(s, FINE, "pts_linears.3.weight", None), FINE, "pts_linears.3.bias", None),
        "the tensors are not those of AD-NeRF's fields",
    ),
    "a missing bias": (
        lambda s: changed(s, FINE, "pts_linears.3.bias", None),
        "the tensors do not fit together: volume/fine/layer3/bias is absent, expected (32,)",
    ),
    "a layer of another width": (
        lambda s: changed(s, COARSE, "pts_linears.3.weight", np.zeros((32, 24), np.float32)),
        "the tensors are not those of AD-NeRF's fields",
    ),
    "a layer of another height": (
        lambda s: changed(s, COARSE, "rgb_linear.weight", np.zeros((4, 16), np.float32)),
        "the tensors do not fit together: volume/coarse/colour/kernel is (16, 4), expected (16, 3)",
    ),
    "a flat layer": (
        lambda s: changed(s, COARSE, "pts_linears.0.weight", np.zeros(32, np.float32)),
        "the tensors are not those of AD-NeRF's fields",
    ),
    "networks of two sizes": (
        lambda s: s | {FINE: {n: (a[:8] if n.startswith("views_linears.0") else a) for n, a in s[FINE].items()}},
        "the coarse and the fine network differ in size",
    ),
    "another audio net": (
        lambda s: changed(s, AUDIO, "encoder_fc1.2.weight", None),
        "the tensors are not those of AD-NeRF's AudioNet",
    ),
    "numbers that are none": (
        lambda s: changed(s, FINE, "alpha_linear.weight", nan_in(s[FINE]["alpha_linear.weight"])),
        "network_fine_state_dict/alpha_linear.weight holds numbers that are not finite: take an earlier checkpoint",
    ),
}  # fmt: skip


def test_the_head_that_a_torso_run_saved_keeps_its_own_steps(torch, tmp_path, capsys):
    stored = torch_pickle.load(HEAD)
    stored.pop("optimizer_audatt_state_dict", None)
    moments = np.zeros(next(iter(stored[COARSE].values())).shape, np.float32)
    adam = {"state": {0: {"step": np.array(400_000), "exp_avg": moments, "exp_avg_sq": moments}}}
    stored |= {"global_step": 9999, "optimizer_state_dict": adam}
    path = torch_files.save(torch, tmp_path / "009999_head.tar", stored)
    found = read_checkpoint(path)
    assert found.step == 400_000 and found.adam_steps == {"networks": 400_000, "attention": 0}
    said = capsys.readouterr().err
    assert "has 10000 steps, its optimizer 400000: the optimizer's count is used" in said
    assert "has no moments of the attention net" in said


@pytest.mark.parametrize("case", SPOILT)
def test_a_head_that_cannot_be_used(capsys, torch, data, tmp_path, case):
    spoil, message = SPOILT[case]
    path = torch_files.save(torch, tmp_path / "X_head.tar", spoil(torch_pickle.load(HEAD)))
    line = refused(capsys, command("head", data, tmp_path / "w", head=path), tmp_path / "w")
    assert message in line and "X_head.tar" in line


def test_a_body_that_cannot_be_used_leaves_no_head_behind(capsys, torch, data, tmp_path):
    stored = torch_pickle.load(BODY)
    spoilt = {
        "do not fit together: volume/fine/colour/kernel": changed(
            stored, FINE, "rgb_linear.weight", np.zeros((4, 16), np.float32)
        ),
        "X_body.tar does not belong to": changed(stored, COARSE, "pts_linears.0.weight", None),
        "not finite": changed(stored, FINE, "alpha_linear.bias", np.full(1, np.inf, np.float32)),
    }
    for message, value in spoilt.items():
        path = torch_files.save(torch, tmp_path / "X_body.tar", value)
        assert message in refused(capsys, command("torso", data, tmp_path / "w", body=path), tmp_path / "w")
    # A head is no body, and the other way round.
    assert "does not belong to" in refused(capsys, command("torso", data, tmp_path / "w", body=HEAD), tmp_path / "w")
    line = refused(capsys, command("torso", data, tmp_path / "w", head=BODY), tmp_path / "w")
    assert "000000_body.tar" in line and "does not belong to" in line


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file(capsys, data, tmp_path, share):
    path = tmp_path / "X_head.tar"
    path.write_bytes(HEAD.read_bytes()[: round(share * HEAD.stat().st_size)])
    line = refused(capsys, command("head", data, tmp_path / "w", head=path), tmp_path / "w")
    assert "X_head.tar is not a PyTorch checkpoint that can be read safely" in line


def test_foreign_files(capsys, data, tmp_path):
    with zipfile.ZipFile(tmp_path / "X.tar", "w") as archive:
        archive.writestr("photo.txt", "not a checkpoint")
    text = tmp_path / "Y.tar"
    text.write_text("neither is this")
    for path in (tmp_path / "X.tar", text):
        line = refused(capsys, command("head", data, tmp_path / "w", head=path), tmp_path / "w")
        assert f"{path.name} is not a PyTorch checkpoint that can be read safely" in line
    line = refused(capsys, command("head", data, tmp_path / "w", head=tmp_path / "gone.tar"), tmp_path / "w")
    assert "checkpoint not found" in line and "gone.tar" in line


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_hostile_pickle_is_refused_and_not_run(capsys, data, tmp_path, legacy):
    mark = tmp_path / "was_run"

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {mark}",)

    content = pickle.dumps({"global_step": 0, COARSE: Hostile()}, 2)
    write = torch_files.write_legacy if legacy else torch_files.write_zip
    path = write(tmp_path / "X_head.tar", content, {})
    line = refused(capsys, command("head", data, tmp_path / "w", head=path), tmp_path / "w")
    assert "it refers to posix.system, which no checkpoint of tensors needs" in line
    assert not mark.exists()


def test_a_workdir_in_use(capsys, imported, data):
    before = {path: path.stat().st_mtime_ns for path in imported.rglob("*") if "/eval" not in str(path)}
    for stage in ("head", "torso"):
        assert run.main(command(stage, data, imported)) == 2
        assert f"{imported / 'head'} holds a run already" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in imported.rglob("*") if "/eval" not in str(path)}


def test_a_dataset_that_does_not_fit(capsys, tiny_data, tmp_path):
    line = refused(capsys, command("torso", tiny_data, tmp_path / "w"), tmp_path / "w")
    assert "trained on speech features with 29 channels" in line and "has 8" in line
    line = refused(capsys, command("head", tmp_path / "gone", tmp_path / "w"), tmp_path / "w")
    assert f"no dataset at {tmp_path}/gone" in line


@pytest.mark.parametrize("setting", ["model.head.dtype=float9", "train.audio_components=0", "model.head.field=grid"])
def test_settings_out_of_range(capsys, data, tmp_path, setting):
    line = refused(capsys, [*command("head", data, tmp_path / "w"), f"--config.{setting}"], tmp_path / "w")
    assert f"config.{setting.partition('=')[0]} is " in line


def test_missing_arguments_are_named(capsys, data, tmp_path):
    for missing, stage in (("head", "head"), ("head", "torso"), ("body", "torso")):
        line = refused(capsys, command(stage, data, tmp_path / "w", **{missing: None}), tmp_path / "w")
        assert f"give the published checkpoint with --config.reference.{missing}=X_{missing}.tar" in line
    arguments = [a for a in command("head", data, tmp_path / "w") if not a.startswith("--config.data")]
    assert "give the dataset that the checkpoints were trained on" in refused(capsys, arguments, tmp_path / "w")
    fast = [a.replace("head.py", "head.py:fast") for a in command("head", data, tmp_path / "w")]
    assert "published checkpoints are of the paper's family" in refused(capsys, fast, tmp_path / "w")
