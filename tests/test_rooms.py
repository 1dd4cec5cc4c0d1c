"""The picture of the imports between rooms is that of the code."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rooms() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "tools" / "rooms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(folder: Path, **modules: str) -> Path:
    """A package `pnfs` with these modules; `a__b` is module b of room a."""
    for name, text in modules.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    return folder


def test_page_is_up_to_date(rooms: ModuleType) -> None:
    """`make rooms` writes it anew."""
    written = (ROOT / "docs" / "rooms.md").read_text()
    assert written == rooms.described(rooms.import_graph(ROOT / "src" / "pnfs"))


def test_commands_stand_on_top_and_body_at_the_bottom(rooms: ModuleType) -> None:
    rows = rooms.storeys(rooms.import_graph(ROOT / "src" / "pnfs"))
    assert rows[-1] == ["commands"]
    assert "body" in rows[0]


def test_imports_are_found_wherever_they_stand(rooms: ModuleType, tmp_path: Path) -> None:
    source = package(
        tmp_path,
        low__one="import numpy",
        middle__two="from pnfs import low",
        top__three="def f():\n    from pnfs.middle.two import x\n    import pnfs.low.one",
        load="from pnfs.middle import two",
    )
    graph = rooms.import_graph(source)
    assert set(graph.edges) == {
        ("middle", "low"), ("top", "middle"), ("top", "low"), ("pnfs", "middle"),
    }  # fmt: skip
    assert rooms.circles(graph) == []
    assert rooms.storeys(graph) == [["low"], ["middle"], ["pnfs", "top"]]
    assert rooms.telling_edges(graph) == set(graph.edges) - {("top", "low")}


@pytest.mark.parametrize("back", ["from pnfs.high import a", "def f():\n    import pnfs.between.b"])
def test_circle_is_named(rooms: ModuleType, tmp_path: Path, back: str) -> None:
    source = package(
        tmp_path,
        high__a="from pnfs.between.b import x",
        between__b="import pnfs.low.c",
        low__c=back,
        bystander__d="import pnfs.low.c",
    )
    [circle] = rooms.circles(rooms.import_graph(source))
    assert {"between", "low"} <= set(circle)
    assert "bystander" not in circle
    assert "import each other" in rooms.described(rooms.import_graph(source))


def test_picture_is_drawn_with_every_room(rooms: ModuleType, tmp_path: Path) -> None:
    graph = rooms.import_graph(package(tmp_path / "pnfs", a__x="import pnfs.b.y", b__y="", c__z=""))
    rooms.draw(graph, tmp_path / "rooms.svg")
    text = (tmp_path / "rooms.svg").read_text()
    assert all(f">{room}</text>" in text for room in "abc")
