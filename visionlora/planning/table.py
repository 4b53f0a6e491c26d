"""A plan as a table."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from visionlora.common.console import console
from visionlora.planning.measure import Plan

MIB = 2**20


def print_plan(plan: Plan) -> None:
    """Print what a run will take, and what most of it goes to."""
    if plan.asked is not None:
        size = int(plan.figures["batch_size"])
        console.print(
            f"data.batch_size={plan.asked} does not fit into the {plan.available / MIB:,.0f} MiB of memory that are free;"
            f" data.batch_size={size} does, with trainer.accumulate_grad_batches or trainer.on_oom=halve to make up for it. For {size}:",
            highlight=False,
        )
    table = Table(title="What the run will take", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for number, rows in enumerate((_work(plan), _time(plan), _memory(plan), _disk(plan))):
        if number:
            table.add_section()
        for row in rows:
            table.add_row(*row)
    console.print(table, highlight=False)


def _work(plan: Plan) -> list[tuple[str, str]]:
    found = plan.figures
    at_once = f", {found['pictures_at_once']} images at a time" if found["pictures_at_once"] else ""
    return [
        ("parameters", f"{found['params/trainable']:,} of {found['params/total']:,} trained"),
        ("batches", f"{found['batches']:,} of {found['batch_size']} an epoch{at_once}; {found['epochs']} epochs, {found['steps']:,} steps"),
    ]


def _time(plan: Plan) -> list[tuple[str, str]]:
    seconds = plan.seconds
    parts = {
        "training batches": seconds["training"],
        "validation": seconds["validation"],
        "checkpoints and the like": seconds["epochs"],
        "features to be cached": seconds["cache"],
        "cross-validation": seconds["folds"],
        "start, measuring before and after": seconds["measuring"],
    }
    epoch = sum(seconds[key] for key in ("training", "validation", "epochs")) / max(plan.figures["epochs"], 1)
    return [
        ("a step", _span(seconds["step"])),
        ("an epoch", _span(epoch)),
        ("the training", _span(seconds["fit"])),
        ("all", f"{_span(seconds['total'])}; {_most(parts, sum(parts.values()))}"),
    ]


def _memory(plan: Plan) -> list[tuple[str, str]]:
    found = plan.figures
    start, before, peak = (found[f"memory/{key}_mib"] for key in ("start", "before_fit", "peak"))
    parts = {"libraries": start, "model, data and measuring before": before - start, "training steps": peak - before}
    return [("peak memory", f"{peak:,.0f} MiB, {plan.available / MIB:,.0f} are free; {_most(parts, peak)}")]


def _disk(plan: Plan) -> list[tuple[str, str]]:
    size = plan.bytes
    parts = {"checkpoints": size["checkpoints"], "adapter": size["adapter"], "base.safetensors": size["base"], "the rest": size["rest"]}
    more = f"{size['part'] / 1e6:,.1f} MB for a moment at each checkpoint"
    cache = f"; {size['cache'] / 1e6:,.1f} MB of cached features" if size["cache"] else ""
    return [
        ("run folder", f"{size['folder'] / 1e6:,.1f} MB; {_most(parts, size['folder'])}"),
        ("beside it", f"{more}{cache}"),
    ]


def _most(parts: Mapping[str, float], whole: float) -> str:
    """The largest parts, until three quarters are named."""
    named, share = [], 0.0
    for name, value in sorted(parts.items(), key=lambda item: -item[1]):
        if share < 0.75:
            named.append(f"{value / max(whole, 1e-9):.0%} {name}")
            share += value / max(whole, 1e-9)
    return ", ".join(named)


def _span(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
