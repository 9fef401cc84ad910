"""`geomae doctor`: check this machine and its setup, with a remedy for each problem."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from geomae.commands.options import CatalogFile, TrackingUri, exit_with

MARKS = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}


def doctor(
    catalog: CatalogFile = None,
    tracking_uri: TrackingUri = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all findings as JSON, for a bug report.")] = False,
) -> None:
    """Check packages, devices, formats, disks, tracking and the catalogue; train for two seconds to measure speed."""
    exit_with(lambda: run(catalog, tracking_uri, as_json=as_json))


def run(catalog: Path | None, tracking_uri: str | None, *, as_json: bool) -> int:
    """Print a line for each finding, with its remedy below it. Returns 2 if something cannot work, else 0."""
    from geomae.commands import doctor_checks as checks

    examined = checks.examine(
        {
            "versions": checks.versions,
            "processor": checks.processor,
            "devices": checks.accelerators,
            "formats": checks.formats,
            "disks": partial(checks.disks, Path("runs")),
            "tracking": partial(checks.tracking, tracking_uri),
            "catalogue": partial(checks.catalogue, catalog),
            "training": checks.training,
        }
    )
    findings = []
    for one in examined:
        findings.append(one)
        if not as_json:
            typer.echo(f"{MARKS[one.state]}  {one.check:<10}  {one.text}")
            if one.remedy:
                typer.echo(f"{'':19}-> {one.remedy}")
    worst = checks.worst(findings)
    if as_json:
        typer.echo(json.dumps({"state": worst, "findings": [asdict(one) for one in findings]}, indent=1))
    else:
        faults = sum(one.state == "fault" for one in findings)
        summary = f"{faults} of {len(findings)} checks failed" if faults else "no check failed"
        typer.echo(f"{summary}; `geomae doctor --json` prints what a bug report should contain")
    return 2 if worst == "fault" else 0
