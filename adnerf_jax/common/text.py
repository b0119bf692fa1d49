"""Text that every format can hold: names of files are any bytes, but metadata and pages have no control characters."""

import re

# Control characters, surrogates (how Python holds the bytes of a name that are not UTF-8), and what XML forbids.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def encodable(text: str, keep: str = "") -> str:
    r"""The text with what cannot be stored or shown written as an escape, such as `\xe9` or `\x1b`.

    Args:
      text: any string, also a name that is not UTF-8.
      keep: control characters that stay.
    """
    return _UNFIT.sub(lambda found: found[0] if found[0] in keep else _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8 (PEP 383)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
