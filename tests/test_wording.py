"""The text of the repository is plain English: none of these phrasings, which read as if translated."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Binaries, generated files, foreign texts; and this list.
SKIPPED = re.compile(
    r"\.(db|gz|json|lock|png|svg|zip)$|(^|/)\.(git$|coverage)|^LICENSE$|^CODE_OF_CONDUCT\.md$|^tests/test_wording\.py$|/files/"
)
BANNED = {
    r"(is|are|was|were|be|been)( not)? told(?! apart)": "name what happens: it is reported, known, asked to",
    "once more": "again",
    "anew": "again",
    "mend(s|ed|ing)?": "fix, repair",
    "(owe|owes|owed)": "backlog, pending, due",
    "so many": "this many, at most N",
    "go(es|ing)? on": "continue, keep doing",
    "beside": "next to, in addition to, together with",
    "who has": "name the noun",
    "for ever": "forever",
    "of late": "recently",
    "in vain": "without success",
    "without a word": "silently",
    r"what (is|was|are|were) \w+ed (is|was|are|were)": "name the noun",
}


def texts() -> list[tuple[str, str]]:
    """Return the files that people write, each with its text.

    They are found without git, which refuses another user's checkout; and archives have none.
    """
    found = []
    for path, folders, files in os.walk(ROOT):
        folder = Path(path)
        folders[:] = [name for name in folders if not is_made(folder / name)]
        names = ((folder / name).relative_to(ROOT).as_posix() for name in files)
        found += [name for name in names if not SKIPPED.search(name)]
    return [(name, (ROOT / name).read_text(encoding="utf-8", errors="replace")) for name in sorted(found)]


def is_made(folder: Path) -> bool:
    """Return whether tools make a folder: caches, environments and what is built."""
    if (folder / "pyvenv.cfg").exists() or folder.name in ("__pycache__", "build", "dist", "htmlcov", "node_modules"):
        return True
    return folder.name.startswith(".") and folder.name not in (".ci", ".github")


@pytest.fixture(scope="module")
def corpus() -> list[tuple[str, str]]:
    found = texts()
    assert len(found) > 500
    return found


@pytest.mark.parametrize(("pattern", "instead"), BANNED.items())
def test_no_text_has_a_banned_phrasing(corpus: list[tuple[str, str]], pattern: str, instead: str) -> None:
    banned = re.compile(rf"(?<![\w-]){pattern}(?![\w-])", re.IGNORECASE)
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for name, text in corpus
        for match in banned.finditer(text)
    ]
    assert not found, f"write instead: {instead}\n" + "\n".join(found)
