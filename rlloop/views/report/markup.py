"""HTML that is escaped by construction: whatever is not Html already becomes text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

VOID = {"input", "meta", "link", "br", "hr"}


class Html(str):
    """Markup. A plain str is text."""


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. Children that are not Html are escaped; None and False attributes are left out, True stands alone.

    A trailing underscore of an attribute falls off (class_), others become hyphens (aria_label).
    """
    parts = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(f" {key}")
        elif value is not None and value is not False:
            parts.append(f' {key}="{escape(str(value), quote=True)}"')
    opened = f"<{name}{''.join(parts)}>"
    return Html(opened if name in VOID else f"{opened}{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Html:
    """Children one after another; those that are no Html are escaped, None is nothing."""
    return Html("".join(one if isinstance(one, Html) else escape(str(one)) for one in children if one is not None))


def lines(texts: Iterable[Any]) -> Html:
    """Texts below each other in one cell."""
    return join(tag("span", text, class_="line") for text in texts)


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Any]], *, class_: str | None = None) -> Html:
    """A table whose first column names its rows; on a narrow screen each row becomes a block, so cells know their
    column's name."""
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in header)))
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(tag("td", cell, data_label=name) for name, cell in zip(header[1:], row[1:], strict=True)),
        )
        for row in rows
    ]
    return tag("table", tag("caption", caption), head, tag("tbody", *body), class_=class_)


def facts(pairs: Iterable[tuple[str, Any]]) -> Html:
    """Names with their values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs), class_="facts")


def folded(title: str, *children: Any, class_: str | None = None) -> Html:
    return tag("details", tag("summary", title), *children, class_=class_)


def section(key: str, title: str, *children: Any) -> Html:
    """A landmark with a heading that the contents link to."""
    heading = tag("h2", title, id=f"{key}-title")
    return tag("section", heading, *children, id=key, aria_labelledby=f"{key}-title")


def data_block(key: str, value: Any) -> Html:
    """JSON for the page's script; no text in it can end the element."""
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")
    return Html(f'<script type="application/json" id="{escape(key, quote=True)}">{text}</script>')
