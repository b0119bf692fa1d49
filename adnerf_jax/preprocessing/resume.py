"""Resumable steps: `manifest.json` records which steps are finished, and from which inputs."""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from adnerf_jax.common.errors import Option, UserError
from adnerf_jax.common.files import read_json, write_json
from adnerf_jax.common.own_folders import check_no_links
from adnerf_jax.common.progress import say

# What a step records in the manifest besides its state: JSON values by name.
Facts = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
      name: name in the manifest and in messages.
      run: takes the records of the steps before, runs the step, and returns the facts to record. When it is called
        again after an interruption, the files that it had already written are still there and may be reused.
      writes: the files that it writes, as glob patterns relative to the dataset's folder.
      needs: names of the earlier steps whose results it reads.
      options: the options that its result depends on; JSON values.
      version: version of its implementation; increased when its results change.
    """

    name: str
    run: Callable[[dict[str, Facts]], Facts]
    writes: tuple[str, ...]
    needs: tuple[str, ...] = ()
    options: Facts = dataclasses.field(default_factory=dict)
    version: int = 1


class Ledger:
    """The steps' records in a manifest, written to disk at every change.

    A record is `{"inputs": digest, "finished": bool, "files": int, "seconds": float, "facts": digest, …facts}`. A step
    is done if its record is finished, has the digest of the current inputs, its facts are as they were recorded, and
    all of the step's files still exist.

    Args:
      path: the manifest; its folder holds the steps' files.
      header: the manifest's other entries.
      steps: all steps, each after those that it needs.
    """

    def __init__(self, path: pathlib.Path, header: Facts, steps: Sequence[Step]):
        self._path, self._header = path, header
        self._steps = {step.name: step for step in steps}
        # Files that an earlier run wrote are deleted by their patterns.
        folders = {pathlib.Path(pattern).parts[0] for step in steps for pattern in step.writes if "/" in pattern}
        check_no_links(*(path.parent / name for name in sorted(folders)))
        saved = read_json(path, "dataset manifest").get("steps", {}) if path.exists() else {}
        self.records: dict[str, Facts] = {name: record for name, record in saved.items() if isinstance(record, dict)}

    def inputs(self, step: Step) -> str:
        """Digest of everything that the step's result depends on, including the steps before it."""
        needs = [self.inputs(self._steps[name]) for name in step.needs]
        return _digest([step.name, step.version, step.options, needs])

    def done(self) -> list[str]:
        """Names of the steps that need not run, in order."""
        done: list[str] = []
        for name, step in self._steps.items():
            record = self.records.get(name, {})
            current = record.get("finished") and record.get("inputs") == self.inputs(step)
            current = current and record.get("facts") == _digest(_facts(record))
            if current and set(step.needs) <= set(done) and record.get("files") == len(self._files(step)):
                done.append(name)
        return done

    def invalidate(self, step: Step) -> None:
        """Removes the record and the files of the step and of every step that depends on it."""
        for other in self._steps.values():
            if step.name in other.needs:
                self.invalidate(other)
        for path in self._files(step):
            path.unlink()
        if self.records.pop(step.name, None):
            self._save()

    def start(self, step: Step) -> None:
        """Opens the step's record. Keeps files that an interrupted run wrote from the same inputs, removes others."""
        record = self.records.get(step.name, {})
        if record.get("finished", True) or record.get("inputs") != self.inputs(step):
            self.invalidate(step)
        self.records[step.name] = {"inputs": self.inputs(step), "finished": False}
        self._save()

    def finish(self, step: Step, seconds: float, facts: Facts) -> None:
        """Closes the step's record."""
        record = {"finished": True, "files": len(self._files(step)), "seconds": round(seconds, 2)}
        self.records[step.name].update(record, facts=_digest(facts), **facts)
        self._save()

    def remove_partial_files(self) -> None:
        """Removes the temporary files of `files.atomic_path` that a killed run left behind."""
        for pattern in (".*.part*", "*/.*.part*"):
            for path in self._path.parent.glob(pattern):
                if not path.is_dir():  # a folder is being written by `data.frame_cache`
                    path.unlink()

    def _save(self) -> None:
        ordered = {name: self.records[name] for name in self._steps if name in self.records}
        write_json(self._path, {**self._header, "steps": ordered})

    def _files(self, step: Step) -> list[pathlib.Path]:
        return [path for pattern in step.writes for path in self._path.parent.glob(pattern)]


_OF_THE_LEDGER = ("inputs", "finished", "files", "seconds", "facts")


def _facts(record: Facts) -> Facts:
    """The facts of a record, which a step returned."""
    return {name: value for name, value in record.items() if name not in _OF_THE_LEDGER}


def _digest(value: Any) -> str:
    """Digest of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def run_steps(path: pathlib.Path, header: Facts, steps: Sequence[Step], redo: str | None = None) -> dict[str, Facts]:
    """Runs the steps that are not done yet.

    Args:
      path: the manifest; its folder holds the steps' files.
      header: the manifest's other entries.
      steps: all steps in order, each after those that it needs.
      redo: name of a step to run again even if it is done; the steps that need it follow.

    Returns:
      the record of each step, by its name.

    Raises:
      UserError: `redo` is not the name of a step; also what the steps raise.
    """
    ledger = Ledger(path, header, steps)
    names = [step.name for step in steps]
    if redo is not None and redo not in names:
        raise UserError(Option("redo"), f" is '{redo}', but there is no such step: choose one of {', '.join(names)}")
    ledger.remove_partial_files()
    if redo is not None:
        ledger.invalidate(steps[names.index(redo)])
    done = ledger.done()
    if done:
        say(f"Already done: {', '.join(done)}.")
    for number, step in enumerate(steps, 1):
        if step.name in done:
            continue
        say(f"[{number}/{len(steps)}] {step.name}")
        ledger.start(step)
        started = time.monotonic()
        facts = step.run(ledger.records)
        ledger.finish(step, time.monotonic() - started, facts)
    return ledger.records
