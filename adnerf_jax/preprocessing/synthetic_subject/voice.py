"""The voice of the built-in subject: a small formant synthesiser, and the matching articulation of the mouth.

A random sequence of phones gives both the sound (glottal pulses and noise through time-varying resonators, after
Klatt, "Software for a cascade/parallel formant synthesizer", 1980) and the motion of the lips (each phone attracts the
mouth to its shape, beginning before it is heard; after Cohen and Massaro, "Modeling coarticulation in synthetic visual
speech", 1993). Only the phones connect the two; loudness does not predict the opening of the mouth: close vowels and
fricatives are loud, open vowels soft, the level of phrases is random, and the mouth stays open in pauses.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy import signal

from adnerf_jax.common.timing import FPS, SAMPLE_RATE

PEAK = 0.5  # amplitude of the sound

ARTICULATORS = ("open", "wide", "pout", "press", "tuck")
"""Columns of `Utterance.articulation`.

open: jaw and lips, 0 ... 1, without the effect of `press`; wide: corners of the mouth, -1 drawn in ... 1 spread; pout:
lips protruded, 0 ... 1; press: lips pressed together, 0 ... 1; tuck: lower lip under the upper teeth, 0 ... 1.
The visible opening is open * (1 - press).
"""


Phone = tuple[str, float, float]  # name, start and end in seconds


@dataclasses.dataclass(frozen=True)
class Utterance:
    """Synthetic speech and the articulation of the mouth.

    Attributes:
      samples: float32 [T] in [-1, 1], 16 kHz.
      phones: (name, start, end) in seconds, without gaps.
      articulation: float32 [N, 5], columns `ARTICULATORS`; row k is the mouth at the time k / fps.
    """

    samples: np.ndarray
    phones: tuple[Phone, ...]
    articulation: np.ndarray


@dataclasses.dataclass(frozen=True)
class _PhoneModel:
    """Acoustics and mouth shape of a phone. Levels in dB, frequencies in Hz, lengths in seconds."""

    formants: tuple[float, float, float]
    mouth: tuple[float, float, float]  # open, wide, pout
    length: float
    level: float  # level of its loudest 40 ms, relative to the phrase
    hold: float = 1.0  # weight of its mouth shape against the neighbours'
    voice: float = 0.0  # amplitude of the glottal pulses
    breath: float = 0.0  # noise at the glottis, shaped by the formants
    hiss: float = 0.0  # noise at the lips or teeth, shaped by `hiss_band`
    hiss_band: tuple[float, float] = (4000.0, 2000.0)  # centre, bandwidth
    closure: float = 0.0  # share of its length in which the vocal tract is closed and only `hum` is heard
    hum: float = 0.0  # amplitude of the voice during the closure
    nasal: bool = False
    seals: str = ""  # "press" or "tuck": the movement that the lips must complete


_VOWELS = {
    #                    F1   F2    F3      open  wide  pout
    "AA": _PhoneModel((730, 1090, 2440), (0.90, 0.00, 0.0), 0.23, -10, voice=1),
    "AE": _PhoneModel((660, 1720, 2410), (0.72, 0.50, 0.0), 0.22, -8, voice=1),
    "EH": _PhoneModel((530, 1840, 2480), (0.50, 0.35, 0.0), 0.20, -3, voice=1),
    "IY": _PhoneModel((270, 2290, 3010), (0.20, 1.00, 0.0), 0.21, 0, voice=1),
    "OW": _PhoneModel((450, 800, 2500), (0.48, -0.70, 0.8), 0.23, -3, voice=1),
    "UW": _PhoneModel((300, 870, 2240), (0.15, -1.00, 1.0), 0.22, 0, voice=1),
}
_P_BURST, _T_BURST, _F_HISS = (900, 1200), (4500, 2500), (3000, 5000)
_CONSONANTS = {
    "M": _PhoneModel((270, 950, 2200), (0.20, 0.0, 0.0), 0.13, -2, voice=0.7, nasal=True, seals="press"),
    "B": _PhoneModel((230, 700, 2100), (0.25, 0.0, 0.0), 0.14, -9, 1, 0.5, 0, 0.5, _P_BURST, 0.8, 0.6, seals="press"),
    "P": _PhoneModel((280, 700, 2100), (0.25, 0.0, 0.0), 0.16, -6, 1, 0, 0.3, 1, _P_BURST, 0.7, seals="press"),
    "F": _PhoneModel((320, 1150, 2250), (0.15, 0.15, 0.0), 0.12, -12, hiss=1, hiss_band=_F_HISS, seals="tuck"),
    "S": _PhoneModel((320, 1750, 2650), (0.12, 0.45, 0.0), 0.13, -3, hiss=1, hiss_band=(5800, 1600)),
    "SH": _PhoneModel((320, 1850, 2500), (0.18, -0.60, 0.8), 0.13, -2, hiss=1, hiss_band=(2900, 1000)),
    "T": _PhoneModel((320, 1800, 2700), (0.18, 0.20, 0.0), 0.12, -10, 0.8, 0, 0.2, 1, _T_BURST, 0.6),
    "N": _PhoneModel((280, 1800, 2700), (0.22, 0.15, 0.0), 0.10, -5, 0.8, 0.7, nasal=True),
    "L": _PhoneModel((360, 1150, 2800), (0.38, 0.10, 0.0), 0.10, -4, 0.7, 0.8),
    "R": _PhoneModel((330, 1200, 1650), (0.25, -0.45, 0.5), 0.10, -4, 0.8, 0.8),
}
# Phones whose lip movement must be completed are twice as frequent: ten seconds would hold too few of each otherwise.
_CONSONANT_BAG = (*_CONSONANTS, *(name for name, phone in _CONSONANTS.items() if phone.seals))
_PAUSES = {
    "SIL": _PhoneModel((500, 1500, 2500), (0.33, 0.00, 0.0), 0.22, -60, hold=0.7),
    "HH": _PhoneModel((600, 1400, 2500), (0.62, -0.10, 0.0), 0.26, -22, breath=1),  # a breath taken through the mouth
}
PHONES = {**_VOWELS, **_CONSONANTS, **_PAUSES}

_STEP = 40  # samples between updates of the filters (2.5 ms)
_STEPS_PER_SECOND = SAMPLE_RATE / _STEP
_MOUTH_LEAD, _MOUTH_LAG = 0.09, 0.09  # seconds that a mouth shape acts before and after its phone
_TONGUE_LEAD, _TONGUE_LAG = 0.05, 0.05  # the same for the formants
_HIGH_FORMANTS = ((3300.0, 250.0), (4500.0, 400.0))  # frequency, bandwidth
_BANDWIDTHS = (70.0, 100.0, 160.0)
_NASAL_POLE, _NASAL_ZERO, _NASAL_BANDWIDTH = 270.0, 480.0, 100.0
_PITCH = 118.0  # Hz
_ROOM_NOISE = 3e-4


def speak(seconds: float, seed: int, fps: float = FPS) -> Utterance:
    """Synthesises a random sequence of syllables in phrases; all phones are about equally frequent.

    Args:
      seconds: length of the speech.
      seed: seed of the sequence and its prosody; the same seed, length and machine give the same samples.
      fps: rows of articulation per second.

    Returns:
      round(seconds * 16000) samples and round(seconds * fps) rows of articulation.
    """
    rng = np.random.default_rng(seed)
    phones, gains = _script(rng, seconds)
    articulation = _articulate(phones, np.arange(round(seconds * fps)) / fps)
    return Utterance(_synthesise(rng, phones, gains, round(seconds * SAMPLE_RATE)), tuple(phones), articulation)


def _script(rng: np.random.Generator, seconds: float) -> tuple[list[Phone], np.ndarray]:
    """The phones with their times, and the gain of each in dB."""
    consonants, vowels = _bag(rng, _CONSONANT_BAG), _bag(rng, _VOWELS)
    pauses = _bag(rng, ("SIL", "HH"))
    names, gains = ["SIL"], [0.0]
    length, lengths = 0.0, [rng.uniform(0.12, 0.2)]
    while sum(lengths) < seconds:
        phrase_gain = rng.uniform(-5, 5)
        for _ in range(rng.integers(4, 7)):
            syllable = [next(consonants), next(vowels)]
            if rng.random() < 0.3:
                syllable.append(next(consonants))
            stress = rng.uniform(-4, 4)
            for name in syllable:
                if name != names[-1]:
                    names.append(name)
                    gains.append(phrase_gain + stress)
                    lengths.append(PHONES[name].length * rng.uniform(0.9, 1.15))
        pause = next(pauses)
        for name in ("SIL", "HH", "SIL") if pause == "HH" else ("SIL",):
            names.append(name)
            gains.append(phrase_gain)
            lengths.append(PHONES[name].length * rng.uniform(0.8, 1.3) * (0.5 if name != pause else 1.0))
    phones, length = [], 0.0
    for name, more in zip(names, lengths, strict=True):
        if length < seconds:
            phones.append((name, length, min(length + more, seconds)))
        length += more
    return phones, np.array(gains[: len(phones)])


def _bag(rng: np.random.Generator, names: Iterable[str]) -> Iterator[str]:
    """Endless draws: all names in a random order, then all in another random order, and so on."""
    while True:
        yield from rng.permutation(list(names)).tolist()


def _pull(phones: Sequence[Phone], times: np.ndarray, lead: float, lag: float) -> np.ndarray:
    """Weight of each phone at each time, [T, P]: 1 during the phone, with a smooth rise before and fall after it."""
    start, end = (np.array([phone[k] for phone in phones]) for k in (1, 2))
    into = np.clip((times[:, None] - start + lead) / lead, 0, 1)
    out = np.clip((end + lag - times[:, None]) / lag, 0, 1)
    return _ease(into) * _ease(out)


def _ease(x: np.ndarray) -> np.ndarray:
    """Smooth step 0 ... 1 → 0 ... 1 with zero slope at both ends."""
    return 0.5 - 0.5 * np.cos(np.pi * x)


def _blend(pull: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Mean of the targets [P, K] weighted by `pull` [T, P], [T, K]."""
    return pull @ targets / np.maximum(pull.sum(1, keepdims=True), 1e-6)


def _articulate(phones: Sequence[Phone], times: np.ndarray) -> np.ndarray:
    """The mouth at the given times, [T, 5] float32."""
    kinds = [PHONES[name] for name, _, _ in phones]
    pull = _pull(phones, times, _MOUTH_LEAD, _MOUTH_LAG)
    shape = _blend(pull * [kind.hold for kind in kinds], np.array([kind.mouth for kind in kinds]))
    seals = []
    for seal in ("press", "tuck"):
        # Neighbouring phones must not keep a lip seal from closing: the maximum is used, not the mean.
        chosen = pull[:, [kind.seals == seal for kind in kinds]]
        seals.append(chosen.max(1, initial=0.0))
    return np.column_stack([shape, *seals]).astype(np.float32)


def _synthesise(rng: np.random.Generator, phones: Sequence[Phone], gains: np.ndarray, count: int) -> np.ndarray:
    """The sound, float32 [count]."""
    steps = -(-count // _STEP)
    times = np.arange(steps) / _STEPS_PER_SECOND
    kinds = [PHONES[name] for name, _, _ in phones]
    pull = _pull(phones, times, _TONGUE_LEAD, _TONGUE_LAG)
    formants = _blend(pull, np.array([kind.formants for kind in kinds], float))
    zero = _blend(pull, np.array([[_NASAL_ZERO if kind.nasal else _NASAL_POLE] for kind in kinds]))[:, 0]

    voice, breath, hiss, band = _sources(phones, times)
    at = np.arange(steps * _STEP) / _STEP
    noise = rng.standard_normal((2, len(at)))
    glottis = _pulses(rng, phones, len(at)) * _upsample(voice, at) + 0.3 * noise[0] * _upsample(breath, at)
    teeth = noise[1] * _upsample(hiss, at)

    throat = np.stack([_throat(frequencies, nasal) for frequencies, nasal in zip(formants, zero, strict=True)])
    gap = np.stack([_band_pass(*row)[None] for row in band])
    # The hiss arises at the front of the mouth and does not pass the resonances of the vocal tract.
    sound = _filter(glottis, throat) + 0.5 * _filter(teeth, gap)
    sound = _set_levels(sound[:count], phones, gains)
    return (sound * (PEAK / np.abs(sound).max()) + _ROOM_NOISE * rng.standard_normal(count)).astype(np.float32)


def _sources(phones: Sequence[Phone], times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Amplitudes of voice, breath and hiss [T], smoothed over 10 ms, and (centre, bandwidth) of the hiss [T, 2]."""
    parts = []  # (end, voice, breath, hiss)
    for name, start, end in phones:
        kind = PHONES[name]
        opened = start + (end - start) * kind.closure
        if kind.closure:
            parts.append((opened, kind.hum, 0.0, 0.0))
            burst = min(opened + 0.015, end)
            parts.append((burst, kind.voice, 0.0, kind.hiss))
            parts.append((end, kind.voice, kind.breath, 0.25 * kind.hiss))
        else:
            parts.append((end, kind.voice, kind.breath, kind.hiss))
    ends = np.array([part[0] for part in parts])
    index = np.minimum(np.searchsorted(ends, times, side="right"), len(parts) - 1)
    amplitudes = np.array([part[1:] for part in parts])[index]
    smoothing = np.array([1, 2, 2, 2, 1])[:, None] / 8
    amplitudes = signal.convolve(np.pad(amplitudes, ((2, 2), (0, 0)), mode="edge"), smoothing, mode="valid")
    phone = np.minimum(np.searchsorted([end for _, _, end in phones], times, side="right"), len(phones) - 1)
    band = np.array([PHONES[name].hiss_band for name, _, _ in phones], float)[phone]
    return *amplitudes.T, band


def _upsample(control: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Interpolates a control given at each step at the positions `at`, in steps."""
    return np.interp(at, np.arange(len(control)), control)


def _pulses(rng: np.random.Generator, phones: Sequence[Phone], count: int) -> np.ndarray:
    """The derivative of the glottal flow (Rosenberg pulses), [count], with a pitch that falls during each phrase."""
    time = np.arange(count) / SAMPLE_RATE
    knots, pitch, since = [0.0], [_PITCH], 0.0
    for name, start, end in phones:
        if name in _PAUSES:
            since = end
        elif name in _VOWELS:
            knots.append((start + end) / 2)
            pitch.append(_PITCH * (1.08 - 0.06 * (knots[-1] - since) + rng.uniform(-0.03, 0.05)))
    phase = np.cumsum(np.interp(time, knots, pitch)) / SAMPLE_RATE % 1.0
    rising, falling = 0.4, 0.10  # shares of the period in which the glottis opens and closes
    closing = (phase - rising) / falling
    flow = np.where(phase < rising, _ease(phase / rising), np.where(closing < 1, np.cos(np.pi / 2 * closing), 0.0))
    return np.diff(flow, prepend=0.0) * 10


def _resonance(frequency: float, bandwidth: float) -> tuple[float, float]:
    """Denominator coefficients (a1, a2) of a two-pole resonator."""
    radius = np.exp(-np.pi * bandwidth / SAMPLE_RATE)
    return -2 * radius * np.cos(2 * np.pi * frequency / SAMPLE_RATE), radius**2


def _throat(formants: np.ndarray, nasal_zero: float) -> np.ndarray:
    """Second-order sections of the vocal tract, [6, 6], with unit gain at 0 Hz: five formants, nasal pole and zero."""
    sections: list[tuple[float, ...]] = []
    for frequency, bandwidth in (*zip(formants, _BANDWIDTHS, strict=True), *_HIGH_FORMANTS):
        a1, a2 = _resonance(frequency, bandwidth)
        sections.append((1 + a1 + a2, 0, 0, 1, a1, a2))
    a1, a2 = _resonance(_NASAL_POLE, _NASAL_BANDWIDTH)
    b1, b2 = _resonance(nasal_zero, _NASAL_BANDWIDTH)
    gain = (1 + a1 + a2) / (1 + b1 + b2)
    sections.append((gain, gain * b1, gain * b2, 1, a1, a2))
    return np.array(sections)


def _band_pass(centre: float, bandwidth: float) -> np.ndarray:
    """One second-order section, [6], with unit gain at its centre."""
    a1, a2 = _resonance(centre, bandwidth)
    return np.array([(1 - a2) / 2, 0, -(1 - a2) / 2, 1, a1, a2])


def _filter(sound: np.ndarray, sections: np.ndarray) -> np.ndarray:
    """Filters [steps * 40] samples by second-order sections [steps, S, 6], which change with each step."""
    state = np.zeros((sections.shape[1], 2))
    out = np.empty_like(sound)
    for step, current in enumerate(sections):
        part = slice(step * _STEP, (step + 1) * _STEP)
        out[part], state = signal.sosfilt(current, sound[part], zi=state)
    return out


def _set_levels(sound: np.ndarray, phones: Sequence[Phone], gains: np.ndarray) -> np.ndarray:
    """Scales each phone to its level and gain. Otherwise open vowels would be the loudest."""
    power = signal.convolve(sound**2, np.full(640, 1 / 640), mode="same")  # over 40 ms
    centres, corrections = [], []
    for (name, start, end), gain in zip(phones, gains, strict=True):
        here = power[
            round((start + 0.02) * SAMPLE_RATE) : round((end - 0.02) * SAMPLE_RATE)
        ]  # windows within the phone
        if name != "SIL" and len(here):
            centres.append((start + end) / 2)
            corrections.append(PHONES[name].level + gain - 10 * np.log10(here.max() + 1e-9))
    return sound * 10 ** (np.interp(np.arange(len(sound)) / SAMPLE_RATE, centres, corrections) / 20)
