"""QR codes of the addresses of GPUs and nodes, as SVG within a page: a phone's camera opens what a label names."""

import segno
from markupsafe import Markup

from collector.web.public_url import PublicUrl

__all__ = ["MAX_QR_LENGTH", "qr_code"]

MAX_QR_LENGTH = 500  # bytes of an address: a denser code is no longer read from a label


def qr_code(public: PublicUrl, path: str, label: str) -> Markup:
    """Return the code of an address, black on white in any scheme; empty where its host is unknown or it is too long.

    `path` is below the prefix of the public URL already, as the templates' own addresses are; `label` says in words
    what the code leads to.
    """
    address = public.address(path)
    if not public.host or not path or len(address.encode()) > MAX_QR_LENGTH:
        return Markup()
    drawn = segno.make_qr(address, error="m").svg_inline(
        border=4, omitsize=True, svgclass="qr", lineclass=None, dark="#000", light="#fff"
    )
    # The drawing is segno's own and has none of the address in it; the title is escaped.
    return Markup(drawn.replace("<svg ", '<svg role="img" ', 1).replace(">", "><title>{}</title>", 1)).format(label)  # noqa: S704
