"""Links from docs/ to files of the repository: checked, and shown as the file's path on the site."""

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>\.\./[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page's text without links that leave docs/.

    Raises:
        FileNotFoundError: A link names a file that does not exist.
    """
    folder = Path(page.file.abs_src_path).parent

    def shown(link: re.Match[str]) -> str:
        target = folder / link["target"]
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_path}: {link['target']} does not exist")
        path = link["target"].replace("../", "")
        return f"`{path}`" if path in link["text"] else f"{link['text']} (`{path}`)"

    return LINK.sub(shown, markdown)
