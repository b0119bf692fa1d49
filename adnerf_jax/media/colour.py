"""Colours that BT.709 cannot hold, brought into it: HLG and PQ are tone-mapped, wider primaries are converted.

Everything after decoding takes a picture for BT.709 as a display shows it. Phones record HLG with the primaries of
BT.2020, whose values read as BT.709 are pale and grey.
"""

import functools
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc

from adnerf_jax.common.errors import UserError

# Code points of ITU-T H.273 for the matrix of luma and chroma.
_RESERVED_MATRIX, _UNSPECIFIED, _BT2020, _BT2020_CONSTANT_LUMINANCE = 3, 2, 9, 10
_DECODABLE = (0, 1, 2, 4, 5, 6, 7, 9)

_REFERENCE_WHITE = 203.0  # cd/m² of diffuse white in HDR (ITU-R BT.2408), which becomes the white of SDR
_PEAK = 1000.0  # cd/m² of the nominal HLG display (ITU-R BT.2100), and the brightest that is told apart in PQ
_HLG_GAMMA = 1.2  # of the OOTF at that peak (BT.2100, table 5)
_SDR_GAMMA = 2.4  # of a display of BT.709 (ITU-R BT.1886)
# Share of the SDR signal up to which it stays as it is: faces are below. Above it highlights are compressed, so that
# what is brighter than diffuse white is not lost.
_KNEE = 0.85
_ROWS = 64  # that are converted at once: they stay in the processor's cache
_LUMINANCE = np.array([[0.2126, 0.7152, 0.0722]], np.float32)  # of BT.709

# Chromaticities x, y of red, green and blue (H.273, table 2); the white of all is D65.
_PRIMARIES = {
    ColorPrimaries.BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    ColorPrimaries.BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    ColorPrimaries.SMPTE432: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_D65 = (0.3127, 0.3290)
_NAMES = {
    ColorTrc.ARIB_STD_B67: "HLG",
    ColorTrc.SMPTE2084: "PQ",
    ColorPrimaries.BT2020: "BT.2020",
    ColorPrimaries.SMPTE432: "Display P3",
}
_HDR = (ColorTrc.ARIB_STD_B67, ColorTrc.SMPTE2084)


class Colours(NamedTuple):
    """How the values of a picture that has to be converted are coded.

    Attributes:
      transfer: HLG or PQ; None: that of BT.709, or one so close that it is read as such.
      primaries: a key of the table of chromaticities.
    """

    transfer: ColorTrc | None
    primaries: ColorPrimaries

    def __str__(self) -> str:
        named = (self.transfer, self.primaries)
        return ", ".join(_NAMES[code] for code in named if code in _NAMES)


def beyond_bt709(transfer: int, primaries: int) -> Colours | None:
    """The coding of a picture that has to be converted; None for one in BT.709, or one that says nothing.

    Args:
      transfer, primaries: code points of H.273. HLG and PQ without primaries have those of BT.2020 (BT.2100).
    """
    hdr = next((code for code in _HDR if code == transfer), None)
    known = next((code for code in _PRIMARIES if code == primaries), None)
    if known is None:
        known = ColorPrimaries.BT2020 if hdr is not None else ColorPrimaries.BT709
    return None if hdr is None and known == ColorPrimaries.BT709 else Colours(hdr, known)


def colours_of(frame: av.VideoFrame) -> Colours | None:
    """`beyond_bt709` of a decoded picture; also corrects a matrix code that the conversion to RGB does not know.

    Raises:
      UserError: the matrix is one that is not decoded, such as ICtCp.
    """
    found = beyond_bt709(frame.color_trc, frame.color_primaries)
    matrix = frame.colorspace
    if matrix == _RESERVED_MATRIX:
        frame.colorspace = _UNSPECIFIED
    elif matrix == _BT2020_CONSTANT_LUMINANCE or (matrix == _UNSPECIFIED and found and found.transfer):
        frame.colorspace = _BT2020  # constant luminance differs little from it
    elif matrix not in _DECODABLE:
        raise UserError(
            f"the video's colours are coded in a way that is not read (matrix {matrix} of ITU-T H.273): "
            f"convert it to BT.709"
        )
    return found


def to_bt709(rgb: np.ndarray, colours: Colours) -> np.ndarray:
    """Converts a picture to BT.709: uint16 RGB [H, W, 3] over the full range to uint8 [H, W, 3].

    The light that a display would emit, relative to diffuse white (BT.2100, BT.2408), is brought to the primaries of
    BT.709, coded for a display of gamma 2.4, and compressed above a knee by its largest channel, which keeps hues.
    """
    result = np.empty(rgb.shape, np.uint8)
    for row in range(0, len(rgb), _ROWS):
        result[row : row + _ROWS] = _rows_to_bt709(rgb[row : row + _ROWS], colours)
    return result


def _rows_to_bt709(rgb: np.ndarray, colours: Colours) -> np.ndarray:
    light = cv2.transform(cv2.LUT(rgb, _light_table(colours.transfer)), _to_bt709_primaries(colours.primaries))
    light = np.maximum(light, 0.0)  # colours outside BT.709
    signal = cv2.pow(light, 1.0 / _SDR_GAMMA)
    if colours.transfer is not None:
        largest = np.maximum(np.maximum(signal[..., 0], signal[..., 1]), signal[..., 2])
        shown = largest
        if colours.transfer == ColorTrc.ARIB_STD_B67:  # light of the scene to that of the display
            gain = cv2.pow(cv2.transform(light, _LUMINANCE), _HLG_GAMMA - 1.0) * (_PEAK / _REFERENCE_WHITE)
            shown = largest * cv2.pow(gain, 1.0 / _SDR_GAMMA)
        signal = signal * (_tone_curve(shown) / np.maximum(largest, 1e-6))[..., None]
    return cv2.convertScaleAbs(signal, alpha=255.0)  # rounds and saturates


def _tone_curve(signal: np.ndarray) -> np.ndarray:
    """The SDR signal in [0, 1] for one that goes beyond diffuse white at 1: the same up to the knee, then a shoulder.

    The shoulder has the knee's slope of 1 and reaches 1 at the peak (extended Reinhard curve).
    """
    peak = ((_PEAK / _REFERENCE_WHITE) ** (1.0 / _SDR_GAMMA) - _KNEE) / (1.0 - _KNEE)
    above = np.clip((signal - _KNEE) / (1.0 - _KNEE), 0.0, peak)
    return np.minimum(signal, _KNEE) + (1.0 - _KNEE) * above * (1.0 + above / peak**2) / (1.0 + above)


@functools.cache
def _light_table(transfer: ColorTrc | None) -> np.ndarray:
    """Linear light for each 16-bit value, float32 [65536]: of the scene for HLG, else relative to diffuse white."""
    signal = np.arange(65536) / 65535.0
    if transfer == ColorTrc.ARIB_STD_B67:  # BT.2100, table 5
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3.0, (np.exp((signal - c) / a) + b) / 12.0)
    elif transfer == ColorTrc.SMPTE2084:  # BT.2100, table 4
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 107 / 128, 2413 / 128, 2392 / 128
        root = signal ** (1.0 / m2)
        light = (np.maximum(root - c1, 0.0) / (c2 - c3 * root)) ** (1.0 / m1) * (10000.0 / _REFERENCE_WHITE)
    else:
        light = signal**_SDR_GAMMA
    return light.astype(np.float32)


@functools.cache
def _to_bt709_primaries(primaries: ColorPrimaries) -> np.ndarray:
    """Matrix [3, 3] from linear RGB with these primaries to that of BT.709."""
    return (np.linalg.inv(_to_xyz(ColorPrimaries.BT709)) @ _to_xyz(primaries)).astype(np.float32)


def _to_xyz(primaries: ColorPrimaries) -> np.ndarray:
    """Matrix [3, 3] from linear RGB to CIE XYZ, white having a luminance of 1."""
    columns = np.array([(x / y, 1.0, (1.0 - x - y) / y) for x, y in _PRIMARIES[primaries]]).T
    white = np.array([_D65[0] / _D65[1], 1.0, (1.0 - _D65[0] - _D65[1]) / _D65[1]])
    return columns * np.linalg.solve(columns, white)
