"""Draws which room of src/pnfs imports which, from the code: docs/rooms.md and docs/rooms.svg (`make rooms`)."""

import ast
from pathlib import Path

import matplotlib
import networkx as nx
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DOOR = "pnfs"
"""The package itself: `pnfs.load`."""


def import_graph(source: Path) -> nx.DiGraph:
    """Rooms and their imports; an edge from a to b where a module of a imports one of b, at any line.

    Args:
        source: Folder of the package `pnfs`.
    """
    graph = nx.DiGraph()
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).parts
        room = parts[0] if len(parts) > 1 else DOOR
        graph.add_node(room)
        for node in ast.walk(ast.parse(path.read_text())):
            for name in _imported(node):
                top, *inner = name.split(".")
                if top != "pnfs" or inner[:1] in (["errors"], ["files"], ["scores"]):
                    continue  # What every room may use is no room.
                is_room = bool(inner) and (source / inner[0] / "__init__.py").is_file()
                other = inner[0] if is_room else DOOR
                if other != room:
                    graph.add_edge(room, other)
    return graph


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def storeys(graph: nx.DiGraph) -> list[list[str]]:
    """The rooms by height, lowest first: a room stands above every room that it imports."""
    return [sorted(row) for row in nx.topological_generations(graph.reverse())]


def described(graph: nx.DiGraph) -> str:
    """The page about rooms, as Markdown."""
    rows = [
        f"| {', '.join(row)} | "
        + " <br> ".join(f"{room}: {', '.join(sorted(graph[room])) or 'no other room'}" for room in row)
        + " |"
        for row in reversed(storeys(graph))
    ]
    return "\n".join(
        [
            "# Rooms",
            "",
            "Who imports whom in src/pnfs, found in the code by `make rooms`. A room stands above every room "
            "that it imports.",
            "",
            "![Imports between the rooms](rooms.svg)",
            "",
            "Dark arrows are drawn where no chain of others says the same; the rest is grey.",
            "",
            "| Rooms, highest first | Imports |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def draw(graph: nx.DiGraph, path: Path) -> None:
    """One box a room, one arrow an import."""
    rows = storeys(graph)
    place: dict[str, tuple[float, float]] = {}
    for height, row in enumerate(rows):
        # Each room near the middle of what it imports, so that fewer arrows cross.
        middle = {room: [place[r][0] for r in graph[room] if r in place] for room in row}
        row.sort(key=lambda room: sum(middle[room]) / max(len(middle[room]), 1))
        for k, room in enumerate(row):
            place[room] = ((k + 0.5) / len(row) * 10 + 0.7 * (-1) ** height, 1.15 * height)
    figure = Figure(figsize=(8, 0.95 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-0.5, 10.5), ylim=(-0.5, 1.15 * len(rows) - 0.6))
    axes.axis("off")
    needed = nx.transitive_reduction(graph).edges
    for edge in sorted(graph.edges, key=lambda edge: edge in needed):
        colour = "0.25" if edge in needed else "0.85"
        axes.annotate(
            "",
            place[edge[1]],
            place[edge[0]],
            arrowprops={"arrowstyle": "-|>", "color": colour, "shrinkA": 14, "shrinkB": 14},
            zorder=1 + (edge in needed),
        )
    for room, (x, y) in place.items():
        box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "0.4"}
        axes.text(x, y, room, ha="center", va="center", bbox=box, zorder=3)
    with matplotlib.rc_context({"svg.hashsalt": "rooms", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    graph = import_graph(ROOT / "src" / "pnfs")
    DOCS.mkdir(exist_ok=True)
    (DOCS / "rooms.md").write_text(described(graph))
    draw(graph, DOCS / "rooms.svg")


if __name__ == "__main__":
    main()
