"""HTML and SVG whose text is escaped by construction: what is not `Html` already is text."""

import html

_VOID = {"img", "meta", "link", "input", "br"}


class Html(str):
    """Markup that may stand in a page as it is; made by `element`, never from what a user gives."""


def element(name: str, /, *children: object, **attributes: object) -> Html:
    """An element with its children, which are escaped unless they are `Html`.

    Args:
      name: of the element.
      children: `Html`, or anything whose text is meant.
      attributes: a trailing underscore is dropped (`class_`), others become hyphens; None and False leave one out, True
        gives its name alone.
    """
    given = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        given.append(f" {key}" if value is True else f' {key}="{html.escape(str(value))}"')
    start = f"<{name}{''.join(given)}>"
    return Html(start) if name in _VOID else Html(f"{start}{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """Children one after the other."""
    return Html("".join(child if isinstance(child, Html) else html.escape(str(child)) for child in children))
