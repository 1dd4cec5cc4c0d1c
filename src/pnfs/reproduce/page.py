"""A table or figure of the paper: as Markdown, with every published number beside ours, and drawn."""

from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from PIL import Image

from pnfs.errors import PnfsError
from pnfs.reproduce.results import OTHERS, Results, Target, compared, conditions, groups
from pnfs.scores import digits
from pnfs.viz.curves import loss_axes, plot_mean, plot_seeds, read_metrics
from pnfs.viz.poses import contact_sheet
from pnfs.viz.style import COLOURS, LABEL, MARKERS, new_figure, plain_axes, save_figure, save_image

PAPER_GIGA = 2**30
"""The summary in the public pose code divides by 1024^3, and the paper's counts of baselines fit that."""

PAPER_NAMES = {"PCKh@0.11": '"PCKh@0.1"'}
"""Scores that the paper prints by another name."""
OUR_NAMES = {"PCKh@0.11": 'PCKh@0.11 (the paper\'s "PCKh@0.1")', "PCKh@0.1": "PCKh@0.1 (true 0.10)"}
"""Scores whose name would be taken for another one."""

_COSTS = (
    ("live parameters (M)", "live_parameters", 1e6, 2),
    ("all parameters (M)", "parameters", 1e6, 2),
    ("MACs (G, 10^9)", "macs", 1e9, 3),
    ("MACs (G, counted as the paper's)", "macs_by_output", PAPER_GIGA, 3),
)
"""Title, column of the runs, unit, digits."""


def write_table(target: Target, results: Results, folder: Path, profile: str, says: str) -> list[Path]:
    """Writes table.md and runs.csv into the folder, made as needed; see `page`."""
    folder.mkdir(parents=True, exist_ok=True)
    text, runs = folder / "table.md", folder / "runs.csv"
    text.write_text(page(target, results, profile, says), encoding="utf-8")
    # A run as it is called anywhere: its name and hash.
    short = ["/".join(f.parts[-2:]) if isinstance(f, Path) else "" for f in results.runs["folder"]]
    results.runs.assign(folder=short).to_csv(runs, index=False)
    return [text, runs]


def page(target: Target, results: Results, profile: str, says: str = "") -> str:
    """The whole page: tables, comparison by seed, scale, sources, notes, what is missing.

    `says` is what the profile's numbers are worth.
    """
    whole, pairs = cells(target, results, profile), compared(target, results)
    # Other methods, then ours, one table for each backbone and dataset.
    members = {"Other methods, as cited by the paper": target.cited} if target.cited else {}
    members |= groups(target, results, target.rows.values())
    shown = {
        name: whole.loc[labels].dropna(axis="columns", how="all").fillna("–") for name, labels in members.items()
    }
    missing = results.runs[results.runs["state"] != "finished"].groupby(["row", "state"], sort=False)["seed"]
    environment = Environment(
        loader=PackageLoader("pnfs.viz", "page"), trim_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template("table.md.j2").render(
        target=target, results=results, profile=profile, says=says, scale=scale(results),
        single=(results.finished.groupby("row")["seed"].nunique() == 1).any(),
        tables={name: "\n".join(markdown(table)) for name, table in shown.items()},
        answers=answers(target, results, pairs), compared="\n".join(markdown(pairs)) if len(pairs) else "",
        missing={key: list(seeds) for key, seeds in missing},
    )  # fmt: skip


def scale(results: Results) -> str:
    """What the runs have in common: data, size of the input, epochs, batch, precision."""
    about = [
        {"data": conditions(settings)[-1], "input": "×".join(map(str, settings["input_size"])),
         "epochs": settings["epochs"], "batch": settings["batch_size"],
         "precision": settings["trainer"]["precision"]}
        for settings in results.settings.values()
    ]  # fmt: skip
    seen = pd.DataFrame(about).astype(str)
    return ", ".join(f"{name} {' or '.join(seen[name].unique())}" for name in seen)


def answers(target: Target, results: Results, pairs: pd.DataFrame) -> list[str]:
    """One line a question of the target, with the numbers that answer it as far as there are runs."""
    score = main_score(target, results)
    spread = results.spread(score)
    text = {r: score_text(score, s["mean"], s["std"]) for r, s in spread.iterrows()}
    lines = []
    for file, question in target.questions.items():
        row = target.rows[file]
        if row not in pairs.index:
            absent = row if row not in text else target.rows[target.against or file]
            lines.append(f"{question} Not run: {absent}.")
            continue
        other, difference, interval, says = pairs.loc[row]
        between = "" if interval == "–" else f", 95% interval {interval}"
        answer = f"{score} {text[row]}, {other}: {text[other]}; by the same seeds {difference}{between}: {says}."
        lines.append(f"{question} {row}: {answer}")
    return lines


def cells(target: Target, results: Results, profile: str) -> pd.DataFrame:
    """The text of every cell: the paper's scores with ours beside each, our further ones, costs, times."""
    labels, published = list(target.rows.values()), target.published
    table = pd.DataFrame(index=[*target.cited, *labels])
    if len(published):
        who = {"ours": "the paper's own", "cited": "cited"}
        table["published as"] = published["who"].map(who)
    printed = {name: column for column, name in target.scores.items()}
    # Of the recorded scores those over all joints, and those that the paper prints.
    recorded = [name for name in results.scores if "/" not in name or name in printed]
    recorded = recorded or [main_score(target, results)]
    for name in dict.fromkeys([*printed, *recorded]):
        if name in printed:
            text = published[printed[name]]
            std = published.get(f"{printed[name]}_std", pd.Series("", text.index))
            text = text.where(std == "", text + " ± " + std)
            table[f"paper: {PAPER_NAMES.get(name, name)}"] = text.where(text != "")
        if name in recorded:
            spread = results.spread(name).T
            ours = {label: score_text(name, *spread[label][:2]) for label in spread}
            column = f"ours ({profile}): {OUR_NAMES.get(name, name)}"
            table[column] = pd.Series(dict.fromkeys(labels, "missing") | ours, dtype=object)
    for column in [c for c in OTHERS if c in published and c not in target.scores]:
        text = published[column]
        table[f"paper: {OTHERS[column]}"] = text.where(text != "")
    for title, column, unit, places in _COSTS:
        mean = results.spread(column)["mean"].astype(float) / unit
        table[f"ours: {title}"] = mean.map(f"{{:.{places}f}}".format).reindex(table.index)
    times = {}  # Mean over the seeds, in days of the device that it is.
    for label, runs in results.finished.groupby("row"):
        names = ", ".join(runs["device"].unique())
        unit = "CPU-days" if names.startswith("CPU") else "GPU-days"
        times[label] = f"{runs['days'].mean():.2g} {unit} ({names})"
    table["ours: search time"] = pd.Series(times, dtype=object)
    done = results.runs["state"].eq("finished").groupby(results.runs["row"])
    table["seeds"] = done.sum().astype(str) + " of " + done.count().astype(str)
    return table


def main_score(target: Target, results: Results) -> str:
    """The score that counts: the first one recorded, or else the first one printed."""
    return next(iter([*results.scores, *target.scores.values()]), "score")


def score_text(name: str, value: float, deviation: float = float("nan")) -> str:
    """A score, and its deviation where there is one, as papers print them."""
    text = f"{value:.{digits(name)}f}"
    return text if pd.isna(deviation) else f"{text} ± {deviation:.{digits(name)}f}"


def markdown(table: pd.DataFrame) -> list[str]:
    """The lines of a table of text, its index first."""
    rows = [[table.index.name or "", *table.columns], ["---", *["---:"] * table.shape[1]]]
    rows += table.reset_index().to_numpy().tolist()
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]


# --- pictures


def draw_figures(target: Target, results: Results, folder: Path, title: str) -> list[Path]:
    """Draws the table, and beside it what the target's kind says, into the folder; nothing without runs."""
    if not len(results.finished):
        return []
    draws = {"trade_off": draw_trade_off, "loss_curves": draw_loss_curves, "poses": draw_poses}
    kinds = [draw_table, *(draw for kind, draw in draws.items() if kind == target.kind)]
    return [draw(target, results, folder, title) for draw in kinds]


def draw_table(target: Target, results: Results, folder: Path, title: str) -> Path:
    """The main score of the rows that have runs: mean and deviation, a dot a seed, and the paper's score."""
    name, (ours, paper) = main_score(target, results), COLOURS[:2]
    parts = groups(target, results, results.spread(name).index).values()
    labels = [label for members in parts for label in members]
    spread = results.spread(name).loc[labels]
    figure = new_figure(6.4, 1.5 + 0.4 * len(labels), title=title)
    axes = figure.subplots()
    places = results.finished["row"].map(labels.index)
    axes.plot(results.finished[name], places, ".", color=ours, alpha=0.4)
    for y, (mean, std) in enumerate(zip(spread["mean"], spread["std"], strict=True)):
        plot_mean(axes, mean, y, (ours, "o"), xerr=std, capsize=3)
    for column in [column for column, score in target.scores.items() if score == name]:
        published = pd.to_numeric(target.published[column].reindex(labels), errors="coerce")
        axes.plot(published, range(len(labels)), "D", color=paper, mfc="white", label="the paper's")
        axes.legend(fontsize=LABEL)
    for members in parts:  # A line parts rows with different backbones or data.
        axes.axhline(labels.index(members[0]) - 0.5, color="0.6", lw=0.8, ls=":")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    plain_axes(axes, x_label=f"{name}; mean ± standard deviation over seeds\n(hollow: one seed)")
    axes.margins(x=0.1)
    return save_figure(figure, folder / "table.png")


def draw_trade_off(target: Target, results: Results, folder: Path, title: str) -> Path:
    """Figure 5: score against multiply-accumulates, each point with its parameters."""
    name = main_score(target, results)
    figure = new_figure(8.8, 4.6, title=title)
    axes = figure.subplots()
    macs, parameters = results.spread("macs")["mean"], results.spread("live_parameters")["mean"]
    count = len(COLOURS)
    for n, (label, mean, std, _) in enumerate(results.spread(name).itertuples()):
        # From the eighth on, the colours come again with other markers.
        look = COLOURS[n % count], MARKERS[(n + n // count) % count]
        text = f"{label} ({parameters[label] / 1e6:.1f} M)"
        plot_mean(axes, macs[label] / 1e9, mean, look, yerr=std, label=text)
    legend = "network (live parameters); hollow: one seed"
    axes.legend(title=legend, fontsize=LABEL, title_fontsize=LABEL, loc="upper left", bbox_to_anchor=(1, 1))
    macs_label = "multiply-accumulates of the whole network, G (the paper's GFLOPs)"
    plain_axes(axes, x_label=macs_label, y_label=name)
    axes.set_xlim(left=0)
    axes.margins(x=0.1, y=0.15)
    return save_figure(figure, folder / "figure.png")


def draw_loss_curves(target: Target, results: Results, folder: Path, title: str) -> Path:
    """Figure 6: losses over the epochs that all seeds have, mean over seeds."""
    runs = results.finished
    logged = {path: read_metrics(Path(path) / "metrics.csv") for path in runs["folder"]}
    figure = new_figure(9.2, 3.9, title=title)
    for axes, split in zip(figure.subplots(1, 2), ("train", "val"), strict=True):
        means = []
        for n, (label, row) in enumerate(runs.groupby("row", sort=False)):
            curves = [logged[path][f"{split}/loss"] for path in row["folder"]]
            means.append(plot_seeds(axes, curves, COLOURS[n % len(COLOURS)], label=str(label)))
        loss_axes(axes, means, "loss")
        plain_axes(axes, x_label="epoch (from 0)", y_label=f"{split} loss (mean squared error)")
    figure.axes[0].legend(fontsize=LABEL)
    return save_figure(figure, folder / "figure.png")


def draw_poses(target: Target, results: Results, folder: Path, title: str) -> Path:
    """Figures 7 and 8: the poses that the first seed of each row has drawn, one above another."""
    runs = results.finished.drop_duplicates("row")
    paths = [Path(path) / "predictions_val.png" for path in runs["folder"]]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths if path.is_file()]
    labels = [str(row) for row, path in zip(runs["row"], paths, strict=True) if path.is_file()]
    if not images:
        raise PnfsError(f"{paths[0]}: no run of {target.name} has drawn its poses; train it again")
    height = round(1600 * max(len(image) / image.shape[1] for image in images))
    captions = [f"{title}: {label}" for label in labels]
    sheet = contact_sheet(images, captions=captions, columns=1, cell=(height, 1600))
    return save_image(folder / "figure.jpg", sheet)
