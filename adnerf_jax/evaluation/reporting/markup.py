"""HTML and SVG with safe escaping: everything that is not already `Html` is escaped as text."""

import html

from adnerf_jax.common.text import encodable

_VOID = {"img", "meta", "link", "input", "br"}


class Html(str):
    """Markup that is inserted into a page unescaped; made by `element`, never from user input."""


def element(name: str, /, *children: object, **attributes: object) -> Html:
    """An element with its children, which are escaped unless they are `Html`.

    Args:
      name: name of the element.
      children: `Html`, or any object, whose `str` is inserted as text.
      attributes: a trailing underscore is dropped (`class_`), other underscores become hyphens; None and False omit the
        attribute, True writes its name without a value.
    """
    given = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        given.append(f" {key}" if value is True else f' {key}="{_escape(value)}"')
    start = f"<{name}{''.join(given)}>"
    return Html(start) if name in _VOID else Html(f"{start}{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """Children one after the other."""
    return Html("".join(child if isinstance(child, Html) else _escape(child) for child in children))


def _escape(value: object) -> str:
    """The text of a value, with what a page cannot hold, such as bytes of a name that are not UTF-8, written out."""
    return html.escape(encodable(str(value), keep="\t\n"))
