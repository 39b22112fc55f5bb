"""``foreshock doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from foreshock.cli.console import make_console, printable_path, stopped
from foreshock.cli.output import AsJson, print_result
from foreshock.representation import one_line
from foreshock.words import count, number

if TYPE_CHECKING:
    from foreshock.cli.environment import Environment
    from foreshock.cli.health import Health, Remark
    from foreshock.cli.probe_cost import ProbeCost

_ILL = 3  # 1 and 2 say that a command could not do its work
_STYLES = {"fault": "bold red", "warning": "yellow", "fine": "green"}


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
        environment: What is installed; null with checkpoints.
        probe: What a probe will cost; null without ``--model`` and ``--data``, or with checkpoints.
        checkpoints: Each checkpoint, examined.
    """

    environment: Environment | None = None
    probe: ProbeCost | None = None
    checkpoints: tuple[Health, ...] = ()


def doctor(
    checkpoints: Annotated[
        list[Path] | None, typer.Argument(help="Files made by torch.save, of state dicts.")
    ] = None,
    against: Annotated[Path | None, typer.Option(help="An older checkpoint of the same run.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FACTORY", help="Function that returns (model, loss_fn, optimizer); with --data."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:BATCHES",
            help="Batches to probe with; with a checkpoint, those whose gradients v is compared with.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is installed and what a probe will cost; or whether a checkpoint is fit to go on from.

    Without a checkpoint: versions, and extras with what installs them. With --model and --data too, how the
    model's Hessian products will be computed, and what a probe takes; for that the model is trained for a few
    steps. With checkpoints: their weights, v, and their fit.

    Exit status: 0 if all checkpoints are healthy, 3 if one is not, 1 if something can't be read or run.
    """
    console = make_console()
    try:
        if (model is None) != (data is None):
            raise ValueError("--model and --data belong together: the model is run on the batches")
        if against is not None and not checkpoints:
            raise ValueError("--against compares a checkpoint with an older one: name the checkpoint, too")
        found = _examined(checkpoints, against, model, data) if checkpoints else _looked_around(model, data)
    except (ImportError, OSError, TypeError, ValueError, RuntimeError, FloatingPointError) as error:
        raise stopped(error) from error
    if as_json:
        print_result("doctor", found)
    else:
        _print(console, found)
    if not all(one.healthy for one in found.checkpoints):
        raise typer.Exit(_ILL)


def _looked_around(model: str | None, data: str | None) -> Diagnosis:
    from foreshock.cli.environment import look_around

    environment = look_around()
    if model is None or data is None:
        return Diagnosis(environment)
    from foreshock.cli.probe_cost import measure_cost

    return Diagnosis(environment, measure_cost(model, data))


def _examined(paths: list[Path], against: Path | None, model: str | None, data: str | None) -> Diagnosis:
    from foreshock.cli.health import examine

    found = [examine(path, against=against) for path in paths]
    if model is not None and data is not None:
        found = [_with_gradients(one, model, data) for one in found]
    return Diagnosis(checkpoints=tuple(found))


def _with_gradients(found: Health, model: str, data: str) -> Health:
    from dataclasses import replace

    from foreshock.cli.fit import compare_with_gradients

    remarks: list[Remark] = [*found.remarks, *compare_with_gradients(found.path, model, data)]
    order = {"fault": 0, "warning": 1, "fine": 2}
    return replace(found, remarks=tuple(sorted(remarks, key=lambda remark: order[remark.severity])))


def _print(console: Console, found: Diagnosis) -> None:
    if found.environment is not None:
        _print_environment(console, found.environment)
    if found.probe is not None:
        _print_cost(console, found.probe)
    for one in found.checkpoints:
        _print_health(console, one)
    if len(found.checkpoints) > 1:
        healthy = [printable_path(one.path) for one in found.checkpoints if one.healthy]
        console.print(f"Healthy: {', '.join(healthy) or 'none'}", soft_wrap=True)


def _print_environment(console: Console, found: Environment) -> None:
    console.print(
        f"foreshock {found.foreshock}, Python {found.python}, torch {found.torch}, numpy {found.numpy}",
        soft_wrap=True,
    )
    threads = count(found.threads, "thread")
    devices = f"{found.platform}; torch computes on {', '.join(found.devices)}, with {threads} on the CPU"
    console.print(escape(devices), soft_wrap=True)
    console.print("[bold]Extras[/]")
    for extra in found.extras:
        there = ", ".join(f"{name} {version}" for name, version in extra.installed.items())
        lacking = f"{', '.join(extra.missing)} missing ({extra.purpose}): {extra.command}"
        style, words = ("yellow", lacking) if extra.missing else ("green", there)
        console.print(f"  [{style}]{extra.name:12}[/] {escape(words)}", soft_wrap=True)


def _print_cost(console: Console, cost: ProbeCost) -> None:
    doubt = "" if cost.verified else "; a second method did not confirm it"
    rows = {
        "training": f"{cost.optimizer}, {count(cost.parameters, 'weight')} on {cost.device}",
        "backend": f"{cost.backend}: {cost.reason.rstrip('.')}{doubt}",
        "a probe": f"{count(cost.products, 'product')}, {number(cost.passes)} forward and backward passes; "
        f"{_time(cost.seconds)}, {number(cost.steps)} × a step ({_time(cost.step_seconds)})",
        "first": f"{number(cost.first_passes)} passes, {_time(cost.first_seconds)}; it chooses the backend",
        "memory": f"{_bytes(cost.probe_bytes)} at the peak of a probe, {_bytes(cost.step_bytes)} of a step, "
        "beyond the model and the optimizer",
        "monitor": f"with the default budget a probe each {count(round(cost.steps_between), 'step')}; "
        "cheaper measurements in between, and where batches differ of their noise, two passes each",
    }
    console.print("[bold]What a probe will cost[/]")
    for name, words in rows.items():
        console.print(f"  {name:12} {escape(one_line(words))}", soft_wrap=True)


def _time(seconds: float) -> str:
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(1000 * seconds)} ms"


def _bytes(size: int) -> str:
    power = min(max(size.bit_length() - 1, 0) // 10, 3)
    return f"{number(size / 1024**power)} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def _print_health(console: Console, found: Health) -> None:
    verdict = "[green]healthy[/]" if found.healthy else "[bold red]not fit to go on from[/]"
    console.print(f"[bold]{printable_path(found.path)}[/]: {verdict}", soft_wrap=True)
    for remark in found.remarks:
        style = _STYLES[remark.severity]
        words = escape(one_line(remark.words))
        console.print(f"  [{style}]{remark.severity:8}[/] {words}", soft_wrap=True)
