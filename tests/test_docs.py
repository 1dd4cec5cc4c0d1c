"""What the documents name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "experiments/README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_files_and_linked_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = re.findall(r"`((?:pnfs|src|conf|tests|web|tools|experiments)/[\w/]+\.\w+)`", text)
    places = [ROOT / "src" / f if f.startswith("pnfs/") else ROOT / f for f in files]
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    missing = [path for path in [*places, *(page.parent / link for link in links)] if not path.exists()]
    assert not missing


def test_page_of_choices_names_every_choice() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "docs/choices.md").read_text(), re.MULTILINE)
    assert len(rows) > 15
    for group, text in rows:
        choices = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} - {"of_checkpoint"}
        named = set(re.findall(r"`(\w+)`", text))
        missing = {name for name in choices - named if not name.startswith("p3_random")}
        assert not missing, f"{group}: {missing}"
