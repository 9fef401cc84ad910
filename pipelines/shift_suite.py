"""Evaluation of every method of adaptation on several families of domain shifts, compared with labels of the target.

    uv run python -m pipelines.shift_suite --catalog C --out runs/suite --encoder baseline:statistics \\
        --encoder 'mine=hls*:runs/h0/model,drawn*:runs/h0/model,eurosat-ms*:runs/h0/model,eurosat-rgb:runs/r0/model'

A FAMILY is a file, or one of `configs/shifts`: real shifts, shifts made from real pixels, and synthetic landscapes.
Every method of `geomae probe --align all` is tested on every shift, radiometry where it can be fitted. For comparison,
there is an oracle, which picks among them on half of the groups and is scored on the other half; and five and ten
labels of the target per class, whose groups are not scored. Each data set is embedded once per encoder, the target of
each shift once more behind each radiometry, and results in --out are not computed again. Writes
`shifts.csv` (a row for each encoder, family, shift and method) and `shifts.md` (a table for each family). Encoders are
written as for `pipelines.benchmark_encoders`; --seeds gives the number of seeds to use (default: the first).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from geomae.commands.options import CommonOptions, default_out, exit_with
from geomae.commands.session import open_session
from geomae.config import load_config, shipped
from geomae.errors import ConfigError
from geomae.files import write_csv, write_text
from geomae.runtime.signals import watch
from pipelines.benchmark_runs import parse_contenders
from pipelines.shift_config import Family
from pipelines.shift_runs import ShiftRuns
from pipelines.shift_tables import COLUMNS, Row, family_table, result_rows
from pipelines.shift_tasks import family_catalog, family_tasks, family_tiles

SHIFTS = "shifts"  # the folder of configs


def main() -> None:
    """Read the command line, run the suite, and exit with a code like geomae's own commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", type=Path, default=Path("data_catalog.yaml"))
    parser.add_argument("--encoder", action="append", default=[], help="[NAME=][DATASETS:]ENCODER[,...]; repeatable")
    parser.add_argument("--family", action="append", default=[], help="FILE or shipped NAME; repeatable, default all")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds of each encoder to use")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="print the shifts, and compute nothing")
    arguments = parser.parse_args()
    exit_with(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Run the families in turn; tables are published after each. Returns the exit code."""
    contenders = parse_contenders(arguments.encoder)
    if not contenders:
        raise ConfigError("there is nothing to compare; name an --encoder, such as baseline:statistics")
    if arguments.seeds < 1:
        raise ConfigError(f"--seeds {arguments.seeds}: give at least 1")
    families = [load_config(Family, SHIFTS, name) for name in arguments.family or shipped(SHIFTS)]
    out = (arguments.out or default_out("shift-suite")).absolute()
    session = open_session(CommonOptions(arguments.catalog, out, arguments.seed), "shift_suite")
    rows: list[Row] = []
    for family in families:
        catalog = family_catalog(family, session, out)
        tiles = family_tiles(family, catalog, session)
        tasks = family_tasks(family, tiles, arguments.seed)
        for task in tasks:
            print(task.describe(), flush=True)
        if arguments.dry_run:
            continue
        runs = ShiftRuns(session, catalog, tiles, out / family.family)
        with watch() as stop:
            for result in runs.run(tasks, contenders, arguments.seeds, stop):
                rows += result_rows(result, arguments.seed)
        session.screen.close()
        if stop.signal:
            print(f"stopped; run the same command with --out {out} to continue")
            return stop.exit_code
        for note in runs.notes:
            print(note)
        _publish(out, rows)
    return 0


def _publish(out: Path, rows: Sequence[Row]) -> None:
    """Publish the table of all rows, and a readable table of each family; print new ones."""
    write_csv(out / "shifts.csv", COLUMNS, (row.csv_row() for row in rows))
    lines = []
    for family in dict.fromkeys(row.family for row in rows):
        own = list(family_table([row for row in rows if row.family == family]))
        lines += [f"## {family}", "", *own, ""]
    write_text(out / "shifts.md", "\n".join(lines))
    print("\n".join(own))


if __name__ == "__main__":
    main()
