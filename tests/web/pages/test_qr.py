"""The QR codes of addresses."""

import pytest
import segno

from collector.web.pages.qr import MAX_QR_LENGTH, qr_code
from collector.web.public_url import PublicUrl

PUBLIC = PublicUrl("https", "gpu.example.com", "/gpuid")


def test_a_code_has_the_full_url_and_shows_it() -> None:
    code = qr_code(PUBLIC, "/gpuid/gpus/1652923034028", 'Serial "1652923034028" & <more>')
    drawn = segno.make_qr("https://gpu.example.com/gpuid/gpus/1652923034028", error="m")
    path = drawn.svg_inline(omitsize=True).partition(' d="M0')[2]
    assert path.partition('d="')[2] in code, "it is the code of this address"
    assert code.startswith('<svg role="img" viewBox=')
    assert "<title>Serial &#34;1652923034028&#34; &amp; &lt;more&gt;</title>" in code
    assert " style=" not in code, "the content security policy allows no style"


@pytest.mark.parametrize(
    ("public", "path"),
    [(PublicUrl("", "", ""), "/gpus/1"), (PUBLIC, ""), (PUBLIC, "/gpuid/gpus/" + "9" * MAX_QR_LENGTH)],
    ids=["unknown host", "no address", "too long"],
)
def test_without_a_fitting_url_there_is_no_code(public: PublicUrl, path: str) -> None:
    assert qr_code(public, path, "label") == ""


def test_plain_http_is_the_default_scheme() -> None:
    plain, secure = (qr_code(PublicUrl(scheme, "h", ""), "/gpus/1", "x") for scheme in ("", "https"))
    assert plain == qr_code(PublicUrl("http", "h", ""), "/gpus/1", "x") != secure
