"""The metadata of rendered files: that they are synthetic, and which model made them."""

import pathlib
import struct
import zlib
from xml.sax.saxutils import quoteattr

from flax import struct as flax_struct

from adnerf_jax.common.text import encodable

# IPTC's term for media made by a trained model (cv.iptc.org/newscodes/digitalsourcetype).
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_PNG_SIGNATURE_AND_HEADER = 8 + 25  # bytes: the signature, then the IHDR chunk


@flax_struct.dataclass
class Provenance:
    """The origin of a rendered file.

    Attributes:
      model: what made it: program, family, person's folder, training step.
    """

    model: str

    @classmethod
    def of(cls, family: str, workdir: pathlib.Path, step: int) -> "Provenance":
        """The origin of what the stage in `workdir` renders with the parameters of training step `step`.

        What metadata cannot hold of the folder's name is escaped.
        """
        name = encodable("/".join(workdir.absolute().parts[-2:]))
        return cls(f"adnerf_jax ({family} family), {name}, step {step}")

    @property
    def sentence(self) -> str:
        """The comment that players show."""
        return f"Synthetic media: the person did not say or do this. Rendered by {self.model}. {DIGITAL_SOURCE_TYPE}"

    def tags(self) -> dict[str, str]:
        """Tags of a video's container, by ffmpeg's names."""
        return {"comment": self.sentence, "description": f"Synthetic media, rendered by {self.model}"}

    def in_png(self, png: bytes) -> bytes:
        """A PNG with an XMP packet (IPTC's digital source type) and the standard keywords `Comment`, `Software`."""
        xmp = (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
            f'xmlns:xmp="http://ns.adobe.com/xap/1.0/" Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}" '
            f"xmp:CreatorTool={quoteattr(self.model)}/></rdf:RDF></x:xmpmeta>"
        )
        texts = (("XML:com.adobe.xmp", xmp), ("Comment", self.sentence), ("Software", self.model))
        chunks = b"".join(_itxt(keyword, text) for keyword, text in texts)
        return png[:_PNG_SIGNATURE_AND_HEADER] + chunks + png[_PNG_SIGNATURE_AND_HEADER:]


def _itxt(keyword: str, text: str) -> bytes:
    """An uncompressed iTXt chunk (PNG specification, 11.3.3.4)."""
    body = keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode()
    return struct.pack(">I", len(body)) + b"iTXt" + body + struct.pack(">I", zlib.crc32(b"iTXt" + body))
