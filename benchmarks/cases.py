"""What becomes of strangers' files: what preparation says, what it leaves in the background, how well it tracks.

    python -m benchmarks.cases --data FOLDER --workdir W [--only a.mp4,b.mov]

prepares every video of a folder into `W/<file>` and prints a Markdown table with a row a file, also written to
`W/table.md`; sounds and HEIF pictures get the columns that apply. What fails is said in its row. A video of a few
seconds takes about a minute on two cores. Finished steps are not repeated: run the same command after an interruption.
"""

import argparse
import contextlib
import io
import pathlib
import re
import sys
import textwrap
from collections.abc import Callable, Sequence

import av
import numpy as np

from adnerf_jax.common.compilation import enable_cache
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import explain_os_error, read_json, write_bytes, write_json
from adnerf_jax.common.progress import exit_status, say
from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.data import schema
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.face.rigid import Pinhole
from adnerf_jax.face.tracking import tilt_of_axes
from adnerf_jax.media.audio import read_blocks
from adnerf_jax.media.container import audio_streams, open_media, video_stream
from adnerf_jax.media.heif import file_is_heif
from adnerf_jax.media.image import read_image
from adnerf_jax.media.sound_track import sound_track
from adnerf_jax.media.video import read_frames
from adnerf_jax.preprocessing.background import person_left
from adnerf_jax.preprocessing.pipeline import prepare
from adnerf_jax.preprocessing.steps import canonical_face
from benchmarks.machine import matrix_rate

FILE, SAYS, PERSON, AGREEMENT = "file", "says", "person left, %", "parser and person network agree"
LANDMARKS, FLOW, TILT = "landmarks missed by, px", "flow missed by, px", "axes to the face"
SOUND, PICTURE, TRACK, SECONDS = "sound, s", "picture, s", "track, channel", "preparation, s"
COLUMNS = (FILE, SAYS, PERSON, AGREEMENT, LANDMARKS, FLOW, TILT, SOUND, PICTURE, TRACK, SECONDS)
MOST_LEFT = 0.5  # per cent of the clean background in which the person network may see a person
_LONGEST = 100  # characters of a line that is said
_FRAMES = 10  # at most, that tell a person from a thing in the background
_PICTURE = (32, 32)  # to which pictures are shrunk that are only counted
_NO_CASES = (".md", ".txt")  # describe the folder

_STEP = re.compile(r"\[\d+/\d+\] (\w+)")
# Progress bars, and lines that every preparation says.
_NO_NOTE = re.compile(r"[\w /]+: (\|[█·]+\| \d+/\d+|\d+) \w+ |Preparing |Wrote |Already done: ")

Row = dict[str, str]
Notes = dict[str, list[str]]


def listen(work: Callable[[], Row]) -> tuple[Row, str]:
    """Runs `work`; its errors do not end the run.

    Returns:
      its result, empty after an error; and what it printed on standard error, a line `error: …` last after an error.
    """
    heard, cells = io.StringIO(), {}
    with contextlib.redirect_stderr(heard):
        try:
            cells = work()
        except UserError as error:
            say("error: ", *error.args)
        except OSError as error:
            say(f"error: {explain_os_error(error)}")
        except Exception as error:  # a defect, which belongs into the table as well
            say(f"error: traceback, {type(error).__name__}: {error}")
    print(heard.getvalue(), end="", file=sys.stderr, flush=True)
    return cells, heard.getvalue()


def notes_of(text: str) -> Notes:
    """The notes, warnings and errors in what preparation printed, by the step that said them; "": before the steps."""
    notes: Notes = {"": []}
    step = ""
    for line in text.splitlines():
        if begun := _STEP.fullmatch(line):
            step = begun[1]
            notes[step] = []
        elif line and not _NO_NOTE.match(line):
            notes[step].append(line)
    return notes


def media_cells(path: pathlib.Path) -> Row:
    """Seconds of sound and picture that are decoded and that the container states; the track and channel taken."""
    if file_is_heif(path):
        height, width = read_image(path).shape[:2]
        return {PICTURE: f"{width}×{height} pixels"}
    with open_media(path) as container:
        pictures, sounds = video_stream(container), audio_streams(container)
        has_pictures, tracks = pictures is not None, len(sounds)
        stated_picture = _stated(container, pictures)
        chosen = sound_track(path)
        stated_sound = _stated(container, sounds[chosen.index]) if chosen else ""
    cells = {}
    if chosen:
        samples = sum(block.shape[1] for block in read_blocks(path, SAMPLE_RATE, 1))
        cells[SOUND] = f"{samples / SAMPLE_RATE:.2f} of {stated_sound}"
        channel = "all" if chosen.channel is None else str(chosen.channel + 1)
        cells[TRACK] = f"{chosen.index + 1} of {tracks}, {channel}"
    if has_pictures:
        cells[PICTURE] = f"{sum(1 for _ in read_frames(path, size=_PICTURE)) / FPS:.2f} of {stated_picture}"
    return cells


def _stated(container: av.container.InputContainer, stream: av.VideoStream | av.AudioStream | None) -> str:
    """Seconds of a stream by the file's header, else those of the whole file; "?" without either."""
    if stream is not None and stream.duration is not None:
        return f"{float(stream.duration * stream.time_base):.2f}"
    return "?" if container.duration is None else f"{container.duration / av.time_base:.2f}"


def dataset_cells(data: pathlib.Path) -> Row:
    """What a prepared dataset's background, poses and records say."""
    steps = schema.load_manifest(data)["steps"]
    ids = schema.load_index(data).train.img_id
    frames = (read_image(data / schema.original_image(i)) for i in ids[:: -(-len(ids) // _FRAMES)])
    left = 100 * person_left(read_image(data / schema.LOSSLESS_BACKGROUND), frames)
    cells = {PERSON: f"{left:.2f}", TILT: f"{tilt(data):.1f}°"}
    held_out = steps["pose"].get("held_out", {})
    for column, kind in ((LANDMARKS, "landmarks_px"), (FLOW, "flow_px")):
        if kind in held_out:
            poses = (held_out[kind][name] for name in ("landmarks_alone", "refined"))
            before, after = (f"{median:.2f}, {worst:.2f}" for median, worst in poses)
            cells[column] = f"{before} → {after}"
    if "person_agreement" in steps["parsing"]:
        cells[AGREEMENT] = "{person_agreement:.3f}, {person_agreement_worst:.3f}".format(**steps["parsing"])
    return cells | {SECONDS: f"{sum(step['seconds'] for step in steps.values()):.0f}"}


def tilt(data: pathlib.Path) -> float:
    """Degrees from the axes of the dataset's head to those of the face (`tracking.tilt_of_axes`)."""
    index = schema.load_index(data)
    ids = np.concatenate([index.train.img_id, index.val.img_id])
    transforms = np.concatenate([index.train.transforms, index.val.transforms])
    camera = Pinhole(index.focal, index.cx, index.cy)
    return tilt_of_axes(transforms, Landmarks.load(data / schema.LANDMARKS).points[ids], camera, canonical_face())[0]


def has_pictures(path: pathlib.Path) -> bool:
    """Whether a file is to be prepared: a video, or something that only preparation can refuse."""
    if file_is_heif(path):
        return False
    with open_media(path) as container:
        return video_stream(container) is not None


def run_case(path: pathlib.Path, folder: pathlib.Path) -> Row:
    """The row of a file, which is prepared into `folder` if it is a video."""
    row, text = listen(lambda: media_cells(path))
    said = notes_of(text)[""]
    if not any(line.startswith("error: ") for line in said) and has_pictures(path):

        def prepared() -> Row:
            prepare(path, folder)
            return {}

        _, text = listen(prepared)
        notes = notes_of(text)
        # Steps that are done say nothing in later runs.
        record = folder.with_name(folder.name + ".said.json")
        earlier = read_json(record, "record of what was said") if record.exists() else {}
        notes = {"": notes.pop("")} | earlier | notes
        lasting = {step: [line for line in lines if not line.startswith("error: ")] for step, lines in notes.items()}
        write_json(record, {step: lines for step, lines in lasting.items() if step})
        said += [line for lines in notes.values() for line in lines]
        if not any(line.startswith("error: ") for line in said):
            cells, text = listen(lambda: dataset_cells(folder))
            row |= cells
            said += notes_of(text)[""]
    lines: dict[str, str] = {}
    for line in said:  # the report repeats what was warned of
        lines.setdefault(line.removeprefix("warning: ").removeprefix("report: "), line.replace(str(path), path.name))
    says = "; ".join(textwrap.shorten(line, _LONGEST, placeholder=" …") for line in lines.values())
    return {FILE: f"`{path.name}`", SAYS: says} | row


def markdown(rows: Sequence[Row], rate: float) -> str:
    """The table of docs/results.md."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(row.get(name, '').replace('|', '/') for name in COLUMNS)} |" for row in rows]
    shares = [float(row[PERSON]) for row in rows if PERSON in row]
    over = sum(share > MOST_LEFT for share in shares)
    return "\n".join(lines) + (
        "\n\nPixels are median and worst, of the landmarks' poses → of the refined ones, on points that neither was "
        f"fitted to. {over} of {len(shares)} backgrounds show a person in more than {MOST_LEFT} %. Preparation at "
        f"{rate:.0f} GFLOP/s.\n"
    )


def cases(data: pathlib.Path, workdir: pathlib.Path, only: Sequence[str]) -> None:
    """Runs the files of a folder; prints the table and writes it to `table.md` after every row."""
    if not data.is_dir():
        raise UserError(f"--data {data} is no folder: give one with videos, sounds or HEIC pictures")
    files = {
        path.name: path
        for path in sorted(data.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.suffix not in _NO_CASES
    }
    unknown = [name for name in only if name not in files]
    if unknown or not files:
        missing = f"no file {unknown[0]}" if unknown else "no files"
        raise UserError(f"{data} has {missing}; there are: {', '.join(files) or 'none'}")
    workdir.mkdir(parents=True, exist_ok=True)
    rate, rows = matrix_rate(), []
    for name in only or files:
        say(f"[{name}]")
        rows.append(run_case(files[name], workdir / name))
        table = markdown(rows, rate)
        write_bytes(workdir / "table.md", table.encode())
    print(table, end="")


def main(argv: Sequence[str]) -> int:
    """Parses the command line and runs; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cases", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of videos, sounds and HEIC pictures")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="of the datasets and the table")
    parser.add_argument("--only", default="", metavar="A,B", help="names of the files to run; default: all")
    options = parser.parse_args(argv)
    only = [name for name in options.only.split(",") if name]

    def command() -> None:
        enable_cache()
        cases(options.data, options.workdir, only)

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
