"""Pages that load nothing: no script, no font, no picture from anywhere, and a content security policy that forbids it.

So a page can be mailed, opened from disk, and trusted with text that models and strangers wrote, as long as that text
goes through :func:`escape`.
"""

from __future__ import annotations

import html

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def render_page(title: str, style: str, body: str) -> str:
    """One whole HTML page.

    Args:
        title: as text; it is escaped.
        style: CSS.
        body: HTML.
    """
    return _PAGE.format(title=escape(title), style=style, body=body)


def escape(text: object) -> str:
    """Text of unknown origin as HTML text or attribute value: control characters are made visible."""
    return html.escape(printable(str(text)), quote=True)


def printable(text: str) -> str:
    """``text`` with control characters, and those that turn the direction of writing, made visible, so that it can
    steer neither a terminal nor the eye."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else f"\\x{ord(character):02x}"
        for character in text
    )
