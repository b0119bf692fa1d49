"""Self-contained HTML pages: images, videos and charts are embedded, nothing is loaded."""

import base64
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from adnerf_jax.evaluation.reporting.markup import Html, element, join

_JPEG_QUALITY = 92
_STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:64rem;background:#fff;color:#1c2430;line-height:1.45;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:1.8rem 0 .6rem;border-bottom:2px solid #1b4f8a}
h3{font-size:1rem;margin:1rem 0 .3rem}p{margin:.4rem 0}.note,figcaption,dd{color:#55606e;font-size:.88rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #e3e6ea;white-space:nowrap}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:#fff}
figure{margin:.4rem 0;break-inside:avoid}img,video,svg{display:block;width:100%;height:auto}
video{max-width:48rem;background:#000}.strip{max-width:60rem}
svg{max-width:36rem}
svg text{font:13px system-ui,sans-serif;fill:#39434f}svg text.title{font-size:14px;font-weight:600;fill:#1c2430}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:.6rem 1.2rem}
details{margin:.6rem 0}summary{cursor:pointer}dt{font-weight:600;font-size:.9rem}dd{margin:0 0 .4rem}
@media print{body{max-width:none;padding:0;font-size:10pt}.wide{overflow:visible}section:has(video){display:none}
h2,h3{break-after:avoid}tr{break-inside:avoid}th,td{padding:.15rem .4rem}.grid{grid-template-columns:1fr 1fr}}
"""


def page(title: str, *sections: Html) -> str:
    """A complete HTML document."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(_STYLE)),
    )
    body = element("body", element("h1", title), *sections)
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def section(title: str, *blocks: Html) -> Html:
    """A heading and what follows it."""
    return element("section", element("h2", title), *blocks)


def note(text: str) -> Html:
    """A paragraph in small print."""
    return element("p", text, class_="note")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """A table; the first column holds the names of the rows."""
    top = element("tr", *(element("th", cell) for cell in head))
    body = (element("tr", *(element("td", cell) for cell in row)) for row in rows)
    return element("div", element("table", element("thead", top), element("tbody", *body)), class_="wide")


def definitions(terms: dict[str, str]) -> Html:
    """Terms and what they mean."""
    return element("dl", *(join(element("dt", name), element("dd", text)) for name, text in terms.items()))


def details(summary: str, *blocks: Html) -> Html:
    """Blocks that unfold on a click."""
    return element("details", element("summary", summary), *blocks)


def picture(image: np.ndarray, caption: str) -> Html:
    """An image, uint8 RGB [H, W, 3], with its caption."""
    quality = (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
    encoded, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), quality)
    if not encoded:
        raise OSError(f"cannot encode an image of {image.shape[1]}x{image.shape[0]} pixels")
    source = _data_url(data.tobytes(), "image/jpeg")
    return element("figure", element("img", src=source, alt=caption), element("figcaption", caption), class_="strip")


def video(path: pathlib.Path, caption: str) -> Html:
    """An mp4, embedded in the page, with its caption."""
    source = _data_url(path.read_bytes(), "video/mp4")
    shown = element("video", src=source, controls=True, playsinline=True, preload="metadata")
    return element("figure", shown, element("figcaption", caption))


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
