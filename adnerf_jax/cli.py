"""The command line: `python run.py --config=configs/quickstart.py`, or `adnerf` where the package is installed."""

import pathlib
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.files import given_path
from adnerf_jax.common.progress import exit_status, say
from adnerf_jax.training.runs import apply_overrides, load_config, run_folder

# What `--config` can name: the packaged configurations, also by the path that a checkout has them at.
_PACKAGED = {
    given: str(pathlib.Path(__file__).parent / "configuration" / f"{name}.py")
    for name in ("quickstart", "head", "torso")
    for given in (name, f"configs/{name}.py")
}
_OPTIONS = (
    "--config=configs/{quickstart,head,torso}.py[:variants] "
    "[--mode=train|render|eval|compare|import] [--workdir=W] [--dry_run] "
    "[--coordinator=HOST:PORT --processes=N --process=I] [--config.FIELD=VALUE ...]"
)


_FLAGS = ("config", "mode", "workdir", "dry_run", "coordinator", "processes", "process")
_OF_PREPARATION = ("out", "focal", "audio_offset", "max_side", "redo")


class Command(NamedTuple):
    """The parsed command line.

    Attributes:
      config: the configuration, overrides applied.
      overrides: what the command line sets in it, by dotted names.
      mode: what to do.
      workdir: folder of the run, if one is given.
      dry_run: only print what training would take.
      coordinator, processes, process: how several processes of a run find each other; None: JAX detects it.
    """

    config: ConfigDict
    overrides: dict[str, Any]
    mode: str
    workdir: pathlib.Path | None
    dry_run: bool
    coordinator: str | None
    processes: int | None
    process: int | None


def main(argv: Sequence[str]) -> int:
    """Runs one command.

    Args:
      argv: the command line, program name first.

    Returns:
      the exit status (`progress.exit_status`).
    """
    if {"-h", "--help"} & set(argv):
        print(_usage(argv[0]))
        return 0
    return exit_status(lambda: _dispatch(parse_command(list(argv))), _as_flag)


def _usage(program: str) -> str:
    """The usage line of a program, given by its path."""
    name = pathlib.Path(program).name
    return f"usage: {'python run.py' if name == 'run.py' else name} {_OPTIONS}"


def _as_flag(option: Option) -> str:
    """The flag of this command that sets an option named in a message; other names are settings."""
    if option.name in _OF_PREPARATION:  # which the quickstart has no setting for
        return f"{shlex.quote(f'--{option}')} of `python -m adnerf_jax.preprocessing`"
    return shlex.quote(f"--{option}" if option.name in _FLAGS else f"--config.{option}")


def parse_command(argv: list[str]) -> Command:
    """Reads a command line, and the configuration that it names.

    Args:
      argv: the command line, program name first.

    Raises:
      UserError: an unknown option or setting, a value of another type, or no such configuration.
    """
    if "--mode=compare" in argv and not any(option.startswith("--config=") for option in argv):
        # The compared runs have their own configurations: any stage's will do for the rest.
        argv.insert(1, "--config=torso")
    argv = _with_config_file(argv)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values, sys_argv=argv)
    flags.DEFINE_enum(
        "mode", "train", ["train", "render", "eval", "compare", "import"], "what to do", flag_values=values
    )
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "only print what training would take", flag_values=values)
    flags.DEFINE_string("coordinator", None, "host:port of process 0", flag_values=values)
    flags.DEFINE_integer("processes", None, "number of processes", flag_values=values)
    flags.DEFINE_integer("process", None, "number of this process, from 0", flag_values=values)
    try:
        rest = values(argv)[1:]
        if rest:
            raise UserError(f"unexpected argument {rest[0]!r}; {_usage(argv[0])}")
        if values.config is None:
            raise UserError(f"--config is missing; {_usage(argv[0])}")
        values.config.stage  # noqa: B018 — a configuration file that could not be read fails at its first use
    except (flags.Error, AttributeError, LookupError, OSError, ValueError, TypeError) as error:
        overridden = any(word.lstrip("-").startswith("config.") for word in argv)
        raise UserError(f"{_explained(error, overridden)}; {_usage(argv[0])}") from None
    workdir = pathlib.Path(given_path(values.workdir)) if values.workdir else None
    overrides = dict(config_flags.get_override_values(values["config"]))
    # Settings that are no paths never begin with ~, nor are they URLs.
    paths = {name: given_path(value) for name, value in overrides.items() if isinstance(value, str)}
    values.config.update_from_flattened_dict(paths)
    overrides |= paths
    return Command(
        values.config,
        overrides,
        values.mode,
        workdir,
        values.dry_run,
        values.coordinator,
        values.processes,
        values.process,
    )


def _with_config_file(argv: list[str]) -> list[str]:
    """Replaces the name of a packaged configuration in `--config` by the path of its file.

    Raises:
      UserError: there is no such file, which `config_flags` reports less clearly and later.
    """
    argv = list(argv)
    for i, word in enumerate(argv):
        option, assigned, value = word.partition("=")
        if option not in ("--config", "-config"):
            continue
        at, given = (i, value) if assigned else (i + 1, "".join(argv[i + 1 : i + 2]))
        file, colon, variants = given.partition(":")
        if not file:
            continue
        file = given_path(file)
        if not pathlib.Path(file).is_file():
            if file not in _PACKAGED:
                raise UserError(f"there is no configuration file {file}: check --config; {_usage(argv[0])}")
            file = _PACKAGED[file]
        argv[at] = (f"{option}=" if assigned else "") + file + colon + variants
    return argv


def _explained(error: Exception, overridden: bool) -> str:
    """What is wrong with a command line, on one line; `overridden`: whether it changes settings."""
    # The error raised from a failed look-up quotes its message with its line breaks.
    for one in (error, error.__cause__, error.__context__):
        if isinstance(one, LookupError):
            what = "no such setting" if overridden else f"the configuration file fails with {type(one).__name__}"
            return f"{what}: {'; '.join(str(one.args[0] if one.args else one).splitlines())}"
    return " ".join(str(error).split())


def _dispatch(command: Command) -> None:
    from adnerf_jax.common import processes
    from adnerf_jax.common.compilation import enable_cache

    config, mode, workdir = command.config, command.mode, command.workdir
    if "stage" in command.overrides:
        raise UserError("config.stage is not to be changed: choose the stage by --config=configs/head.py or torso.py")
    if command.dry_run and (mode != "train" or config.stage == "quickstart"):
        raise UserError("--dry_run estimates the training of one stage: use it with configs/head.py or torso.py")
    if mode == "train" and config.stage != "quickstart":
        processes.start(command.coordinator, command.processes, command.process)
    elif processes.index_of(command.process) and not _divided(config, mode):
        say(
            "this is done by the first process alone: only the training of a stage is divided, and evaluation and "
            "rendering where --config.eval.shard or --config.render.shard gives each process a part"
        )
        return
    enable_cache()
    home = run_folder(config.variants)
    if config.stage == "quickstart":
        if mode != "train":
            raise UserError(f"--mode={mode} works on one stage: use --config=configs/torso.py --workdir=W/torso")
        from adnerf_jax.quickstart import quickstart

        quickstart(config, workdir or home)
        return
    if mode == "import":
        _import(config, command.overrides, workdir or home)
        return
    if mode == "compare":
        from adnerf_jax.evaluation.compare import compare

        compare(config, workdir or pathlib.Path("runs") / "comparison")
        return
    workdir = workdir or home / config.stage
    if mode == "train":
        with processes.together():
            _train(config, workdir, home, command.dry_run)
        return
    config = apply_overrides(load_config(workdir), config, command.overrides, workdir)
    if mode == "eval":
        from adnerf_jax.evaluation.evaluate import evaluate

        evaluate(config, workdir)
    else:
        from adnerf_jax.inference.synthesize import synthesize

        synthesize(config, workdir)


def _divided(config: ConfigDict, mode: str) -> bool:
    """Whether a process was given its part of an evaluation or a rendering."""
    return mode in ("eval", "render") and config.stage != "quickstart" and bool(config[mode].shard)


def _import(config: ConfigDict, overrides: dict[str, Any], workdir: pathlib.Path) -> None:
    """Imports published checkpoints into `workdir/head` and, for configs/torso.py, `workdir/torso`."""
    from adnerf_jax.configuration import base as common
    from adnerf_jax.training.import_reference import import_reference

    if config.data is None:
        raise UserError("give the dataset that the checkpoints were trained on with --config.data=D")
    stages = ("head", "torso") if config.stage == "torso" else ("head",)
    configs = []
    for stage in stages:
        # Published weights were made with the published mistakes; the command line overrides them.
        one = common.get_config(stage, ",".join(config.variants))
        one.compat.reference = True
        one.update_from_flattened_dict({key: value for key, value in overrides.items() if _has(one, key)})
        configs.append(one)
    import_reference(configs[0], configs[1] if len(configs) > 1 else None, workdir)


def _has(config: ConfigDict, key: str) -> bool:
    """Whether a configuration has a field `a.b.c`."""
    *path, last = key.split(".")
    for part in path:
        if part not in config:
            return False
        config = config[part]
    return last in config


def _train(config: ConfigDict, workdir: pathlib.Path, home: pathlib.Path, dry_run: bool) -> None:
    """Fills in what the command line left open, then trains, or says what that would take."""
    from adnerf_jax.common import processes
    from adnerf_jax.configuration.checks import check_settings
    from adnerf_jax.training.checkpoints import finished_steps
    from adnerf_jax.training.train import train

    check_settings(config)
    if config.stage == "torso" and not dry_run:
        config.head_checkpoint = config.head_checkpoint or str(workdir.parent / "head")
        finished_steps(config.head_checkpoint, "the head")  # fails before a dataset is made
    if config.data is None and (workdir / "config.json").exists():
        # A run that is resumed or was imported has its dataset in its configuration.
        config.data = load_config(workdir).data
    if config.data is None:
        from adnerf_jax.quickstart import builtin_dataset

        config.data = str(home / "dataset")
        if processes.is_main():
            builtin_dataset(home / "dataset", smoke="smoke" in config.variants)
        processes.wait_for_all("the dataset is made")
    if dry_run:
        from adnerf_jax.training.dry_run import say_plan

        say_plan(config)
        return
    train(config, workdir)


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and ends the process with its exit status: the console command `adnerf`."""
    status = main(sys.argv if argv is None else argv)
    # Everything is written: a SIGTERM that arrives now must not turn success into failure.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(status)


if __name__ == "__main__":
    run()
