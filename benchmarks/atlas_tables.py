"""The page docs/atlas.md, its picture, and the small files that they are made of.

    python benchmarks/atlas_tables.py --thin runs                # writes results/atlas.parquet
    python benchmarks/atlas_tables.py                            # writes the page from it

``runs`` is the folder in which ``overparam atlas`` keeps its runs, of the full atlas and of the
quick one; whatever is finished there is taken. With ``--transformer``, a file of
benchmarks/transformer.py is taken too. The page is written between its two marks; the rest of it is
written by hand.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
from pathlib import Path

import polars as pl
import vl_convert
from rich.console import Console
from transformer import best

from overparam.lab.comparison import compare
from overparam.lab.comparison.atlas import FULL, QUICK
from overparam.lab.comparison.atlas_table import (
    CAPTION,
    HEADER,
    atlas_table,
    picture,
    problem_lines,
    sentences,
)
from overparam.lab.comparison.names import folder_name
from overparam.lab.comparison.protocol import OutOfTimeError
from overparam.lab.comparison.result import BOUNDS, Result

ROOT = Path(__file__).parents[1]
STORED, GPU = ROOT / "results" / "atlas.parquet", ROOT / "results" / "transformer.parquet"
PAGE, FIGURE = ROOT / "docs" / "atlas.md", ROOT / "docs" / "figures"
BEGIN, END = "<!-- written by benchmarks/atlas_tables.py -->", "<!-- end -->"
ATLASES = {"atlas": FULL, "atlas-quick": QUICK}
_TITLES = {"atlas": "The full atlas", "atlas-quick": "The quick atlas"}


def stored_result(problem: str, folder: Path) -> Result | None:
    """A comparison that is finished in a folder; nothing is trained."""
    file = folder / "plan.json"
    if not file.exists():
        return None
    asked = json.loads(file.read_text(encoding="utf-8"))["settings"]
    options = {
        n: asked[n] for n in ("methods", "steps", "budget", "seeds", "trials", "tuning_seeds")
    }
    try:
        return compare(
            problem, **options, controls=False, directory=folder, suspend=lambda: True,
            console=Console(file=io.StringIO()),
        )  # fmt: skip
    except OutOfTimeError:
        return None


def thinned(runs: Path) -> pl.DataFrame:
    """Every cell that is finished."""
    tables = []
    for atlas, cells in ATLASES.items():
        found = {
            cell.problem: stored_result(cell.problem, runs / atlas / folder_name(cell.problem))
            for cell in cells
        }
        table = atlas_table({name: result for name, result in found.items() if result})
        tables.append(table.with_columns(pl.lit(atlas).alias("atlas")))
    return pl.concat(tables)


def markdown(rows: list) -> str:
    """A table of every cell."""
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def generated(stored: pl.DataFrame, transformer: pl.DataFrame | None) -> str:
    """What the page says of the stored results."""
    known, parts = set(stored["atlas"]), []
    # What is not known comes last.
    for atlas, cells in sorted(ATLASES.items(), key=lambda each: each[0] not in known):
        table = stored.filter(pl.col("atlas") == atlas)
        parts.append(f"## {_TITLES[atlas]}")
        if len(table):
            parts += [_list(sentences(table)), _figure(atlas), _how(table)]
            parts += [f"### Every cell of {_TITLES[atlas].lower()}", markdown(problem_lines(table))]
            parts.append(BOUNDS)
        missing = [c.problem for c in cells if c.problem not in set(table["problem"])]
        if missing:
            parts += ["Not run to the end, so nothing is known:", _list(f"`{n}`" for n in missing)]
    parts.append("## A transformer of six layers of 384")
    if transformer is None:
        parts.append("Not run.")
    else:
        where = ", ".join(transformer["machine"].unique().sort())
        steps = transformer["steps"].max()
        parts += [
            f"One seed, {steps} steps, the loss at the end at the best of a small grid ({where}). "
            "One seed decides nothing by itself.",
            best(transformer),
        ]
    return "\n\n".join(parts)


def _figure(atlas: str) -> str:
    return (
        f"![Speed-ups of each method with depth on each problem.](figures/{atlas}.svg)\n\n{CAPTION}"
    )


def _list(lines) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _how(table: pl.DataFrame) -> str:
    """Lengths, seeds, machines, and what was cut to keep a budget."""
    lines = []
    machines = {m for text in table["machines"].unique() for m in text.split("\n")}
    lines.append(f"Trained on {'; '.join(sorted(machines))}, one thread for each run.")
    steps = table.group_by("problem", maintain_order=True).agg(
        pl.col("steps").first(), pl.col("values").list.len().first().alias("seeds")
    )
    shown = (f"`{p}` {s:,} ({n})" for p, s, n in steps.iter_rows())
    lines.append(f"Steps of the runs of tuning, and fresh seeds: {', '.join(shown)}.")
    notes = table.filter(pl.col("notes") != "").group_by("problem", maintain_order=True).first()
    lines += [
        f"`{row['problem']}`, to keep the budget: {_short(row['notes'])}."
        for row in notes.iter_rows(named=True)
    ]
    return _list(lines)


def _short(notes: str) -> str:
    """What was cut, in one sentence."""
    lines = notes.split("\n")
    return "; ".join(line.removeprefix("To keep the budget: ").rstrip(".") for line in lines)


def write() -> None:
    """Write the page and its pictures from what is stored."""
    stored = pl.read_parquet(STORED)
    transformer = pl.read_parquet(GPU) if GPU.exists() else None
    for atlas in ATLASES:
        table = stored.filter(pl.col("atlas") == atlas)
        if len(table):
            svg = vl_convert.vegalite_to_svg(picture(table).to_dict())
            (FIGURE / f"{atlas}.svg").write_text(svg, encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    body = generated(stored, transformer)
    PAGE.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")
    print(f"{PAGE}: {len(stored)} cells")


def main() -> None:
    """Write the files, then the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--thin", type=Path, help="folder of the runs of overparam atlas")
    parser.add_argument("--transformer", type=Path, help="file of benchmarks/transformer.py")
    options = parser.parse_args()
    STORED.parent.mkdir(exist_ok=True)
    if options.transformer:
        shutil.copyfile(options.transformer, GPU)
    if options.thin:
        table = thinned(options.thin)
        if STORED.exists():  # the other atlas may be in another folder
            stored = pl.read_parquet(STORED)
            others = stored.filter(~pl.col("atlas").is_in(table["atlas"].unique().implode()))
            table = pl.concat([others, table], how="diagonal")
        table.write_parquet(STORED, compression="zstd", compression_level=19)
        print(f"{STORED}: {len(table)} rows, {STORED.stat().st_size / 1e3:.0f} kB")
    write()


if __name__ == "__main__":
    main()
