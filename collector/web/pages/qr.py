"""QR codes of the URLs of GPUs and nodes, as inline SVG, to open a page from a label with a phone."""

import segno
from markupsafe import Markup

from collector.web.public_url import PublicUrl

__all__ = ["MAX_QR_LENGTH", "qr_code"]

MAX_QR_LENGTH = 500  # bytes of a URL: a denser code cannot be read from a label


def qr_code(public: PublicUrl, path: str, label: str) -> Markup:
    """Return the code of a URL, black on white in any colour scheme; empty if its host is unknown or it is too long.

    `path` already has the prefix of the public URL, like the templates' own URLs; `label` describes the target.
    """
    address = public.address(path)
    if not public.host or not path or len(address.encode()) > MAX_QR_LENGTH:
        return Markup()
    drawn = segno.make_qr(address, error="m").svg_inline(
        border=4, omitsize=True, svgclass="qr", lineclass=None, dark="#000", light="#fff"
    )
    # The drawing comes from segno and contains no part of the URL; the title is escaped.
    return Markup(drawn.replace("<svg ", '<svg role="img" ', 1).replace(">", "><title>{}</title>", 1)).format(label)  # noqa: S704
