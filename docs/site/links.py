"""Links that hold in the repository, made to hold in the site."""

import posixpath
import re
from collections.abc import Callable

# Pages of the site that are written elsewhere than in docs/.
HOMES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples": "examples/index.md",
}
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]*)(#[^)\s]*)?(?=\))")


def in_the_site(path: str) -> str:
    """Where a file of the repository is in the site."""
    if path in HOMES:
        return HOMES[path]
    return path.removeprefix("docs/")


def relinked(markdown: str, source: str, page: str) -> str:
    """The text of ``source``, a path in the repository, with links for the page that shows it."""

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        home = in_the_site(target if match[1] else source)
        return ("" if home == page else relative(home, page)) + (match[2] or "")

    return outside_code(markdown, lambda text: LINK.sub(link, text))


def relative(target: str, page: str) -> str:
    """A path of the site as seen from a page."""
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


def pictures(markdown: str, source: str) -> list[str]:
    """The files that a text shows, by their paths in the repository."""
    found = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", markdown)
    return [posixpath.normpath(posixpath.join(posixpath.dirname(source), x)) for x in found]


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Change what is no block of code."""
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(x if i % 2 else change(x) for i, x in enumerate(parts))
