"""``python -m visionlora.report runs=DIR``: compare finished runs; never trains. Thin: compose, call, print."""

from __future__ import annotations

from pathlib import Path

from visionlora.cli.command import run_command
from visionlora.cli.conf import conf_dir
from visionlora.reporting.config import ReportConfig


def report(config: ReportConfig, folder: Path) -> list[str]:
    """Print the ranking and write ``OUTPUT.html``, ``OUTPUT.csv``, ``OUTPUT.parquet`` and, for papers, ``OUTPUT_paper/``.

    Returns:
        The configurations' names, best first.
    """
    from visionlora.common.files import folder_inside, replace_file
    from visionlora.common.rows import write_rows
    from visionlora.reporting.commands import command_of
    from visionlora.reporting.paper import paper_table, write_paper
    from visionlora.reporting.runs import as_rows, configurations, find_runs, ranked, ranking_metric
    from visionlora.reporting.tables import print_ranking

    runs = find_runs([config.runs] if isinstance(config.runs, str) else config.runs)
    metric = ranking_metric(runs, config.metric)
    best_first = ranked(configurations(runs), metric)
    table = paper_table(best_first, metric, config.columns, None if config.baseline is None else str(config.baseline))
    command = command_of(best_first[0].runs[0].config, conf_dir())
    print_ranking(best_first, metric, command, config.top)
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_rows(output.with_name(f"{output.name}.csv"), as_rows(runs))

    from visionlora.reporting.page import page

    replace_file(output.with_name(f"{output.name}.html"), page(best_first, metric, command).encode())
    write_rows(output.with_name(f"{output.name}.parquet"), as_rows(runs))
    write_paper(table, folder_inside(output.parent, f"{output.name}_paper"))
    print(f"{output}.html, {output}.csv, {output}.parquet; for papers {output}_paper")
    return [configuration.name for configuration in best_first]


def main() -> None:
    """Run the command line."""
    run_command("report", ReportConfig, report)


if __name__ == "__main__":
    main()
