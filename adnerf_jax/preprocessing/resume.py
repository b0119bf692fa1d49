"""Steps that a killed run continues: what is done, and from which inputs, in `manifest.json`."""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import read_json, write_json
from adnerf_jax.common.progress import say

Facts = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
      name: of the step, for the manifest and the user.
      run: does it. It is given the records of the steps before, and returns what is to be recorded of this one.
        Called again after it was interrupted, it finds the files it had written and may go on from them.
      writes: the files it writes, as patterns relative to the dataset's folder.
      needs: names of the earlier steps whose results it reads.
      options: what its result depends on besides.
      version: to be raised when its results change.
    """

    name: str
    run: Callable[[dict[str, Facts]], Facts]
    writes: tuple[str, ...]
    needs: tuple[str, ...] = ()
    options: Facts = dataclasses.field(default_factory=dict)
    version: int = 1


class Ledger:
    """The steps' records in a manifest, on disk at every change.

    A record is `{"inputs": digest, "finished": bool, "files": int, "seconds": float, …facts}`. A step is done when
    its record is finished, was made from the same inputs, and all its files are still there.

    Args:
      path: of the manifest; its folder holds the files.
      header: the manifest's other entries.
      steps: all of them, each after those it needs.
    """

    def __init__(self, path: pathlib.Path, header: Facts, steps: Sequence[Step]):
        self._path, self._header = path, header
        self._steps = {step.name: step for step in steps}
        self.records: dict[str, Facts] = read_json(path, "dataset manifest").get("steps", {}) if path.exists() else {}

    def inputs(self, step: Step) -> str:
        """Digest of all that the step's result depends on, the steps before it included."""
        needs = [self.inputs(self._steps[name]) for name in step.needs]
        identity = json.dumps([step.name, step.version, step.options, needs], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    def done(self) -> list[str]:
        """Names of the steps with nothing left to do, in order."""
        done: list[str] = []
        for name, step in self._steps.items():
            record = self.records.get(name, {})
            current = record.get("finished") and record.get("inputs") == self.inputs(step)
            if current and set(step.needs) <= set(done) and record.get("files") == len(self._files(step)):
                done.append(name)
        return done

    def invalidate(self, step: Step) -> None:
        """Takes back the step and all that was made from it, files included."""
        for other in self._steps.values():
            if step.name in other.needs:
                self.invalidate(other)
        for path in self._files(step):
            path.unlink()
        if self.records.pop(step.name, None):
            self._save()

    def begin(self, step: Step) -> None:
        """Opens the step's record. What an interrupted run wrote from the same inputs stays; anything else goes."""
        record = self.records.get(step.name, {})
        if record.get("finished", True) or record.get("inputs") != self.inputs(step):
            self.invalidate(step)
        self.records[step.name] = {"inputs": self.inputs(step), "finished": False}
        self._save()

    def finish(self, step: Step, seconds: float, facts: Facts) -> None:
        """Closes the step's record."""
        record = {"finished": True, "files": len(self._files(step)), "seconds": round(seconds, 2)}
        self.records[step.name].update(record, **facts)
        self._save()

    def remove_partial_files(self) -> None:
        """Removes what `files.atomic_path` was writing when a run was killed."""
        for pattern in (".*.part*", "*/.*.part*"):
            for path in self._path.parent.glob(pattern):
                if not path.is_dir():  # as of frames being decoded (`.frames/`)
                    path.unlink()

    def _save(self) -> None:
        ordered = {name: self.records[name] for name in self._steps if name in self.records}
        write_json(self._path, {**self._header, "steps": ordered})

    def _files(self, step: Step) -> list[pathlib.Path]:
        return [path for pattern in step.writes for path in self._path.parent.glob(pattern)]


def run_steps(path: pathlib.Path, header: Facts, steps: Sequence[Step], redo: str | None = None) -> dict[str, Facts]:
    """Runs the steps that are not done yet.

    Args:
      path: of the manifest; its folder holds the files.
      header: the manifest's other entries.
      steps: in order, each after those it needs.
      redo: a step to do again even though it is done; those that need it follow.

    Returns:
      the record of each step.

    Raises:
      UserError: `redo` is not the name of a step; and what the steps raise.
    """
    ledger = Ledger(path, header, steps)
    names = [step.name for step in steps]
    if redo is not None and redo not in names:
        raise UserError(f"there is no step '{redo}': choose one of {', '.join(names)}")
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
        ledger.begin(step)
        start = time.monotonic()
        facts = step.run(ledger.records)
        ledger.finish(step, time.monotonic() - start, facts)
    return ledger.records
