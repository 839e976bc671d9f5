"""`up`, `down` and `demo`: the whole stack on this machine."""

from __future__ import annotations

import runpy
import sys

import click

from lastgood import errors, settings
from lastgood.cli import common


@click.command()
@common.service_arguments
@click.option("--ui", is_flag=True, help="Also start the Dagster and MLflow web pages (loopback only, no password).")
@click.option("--dagster-port", type=common.port_number(), default=3000, show_default=True, help="Port of the Dagster web page.")
@click.option("--mlflow-port", type=common.port_number(), default=5000, show_default=True, help="Port of the MLflow web page.")
@common.json_option
def up(names: tuple[str, ...], ui: bool, dagster_port: int, mlflow_port: int, as_json: bool) -> int:
    """Start proxy, workers and controller in the background (default: for every service). Safe to run again."""
    from lastgood.ops import local_stack

    here = settings.load()
    chosen = list(names) or local_stack.known_services(here)
    local_stack.check_names(here, chosen, among=local_stack.known_services(here))
    if ui:
        local_stack.check_pages(here, dagster_port=dagster_port, mlflow_port=mlflow_port)
    receipts = local_stack.up(here, names=chosen, say=common.say)
    addresses = local_stack.open_pages(here, dagster_port=dagster_port, mlflow_port=mlflow_port, say=common.say) if ui else {}
    value = {
        "schema": "lastgood.up/v1",
        "services": chosen,
        "layers": [receipt.to_json() for receipt in receipts],
        "processes": local_stack.processes(here),
        "pages": addresses,
    }
    waiting = [f"{receipt.layer} is {receipt.status}" for receipt in receipts if receipt.status != "converged"]
    head = f"up: {', '.join(chosen)}" if not waiting else f"not up yet: {', '.join(chosen)}: {'; '.join(waiting)}"
    common.emit(value, as_json=as_json, text=lambda: f"{head}\nNext: lastgood status {chosen[0]}")
    return 0 if all(receipt.status == "converged" for receipt in receipts) else errors.PartlyConverged.exit_code


@click.command()
@common.service_arguments
@click.option("--keep-serving", is_flag=True, help="Stop only the controller and the web pages; requests are still answered.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@common.json_option
def down(names: tuple[str, ...], keep_serving: bool, yes: bool, as_json: bool) -> int:
    """Stop the stack (default: for every service). Without --keep-serving, services stop answering requests."""
    from lastgood.ops import local_stack

    here = settings.load()
    chosen = list(names) or local_stack.known_services(here)
    local_stack.check_names(here, chosen, among=local_stack.known_here(here))
    if not keep_serving:
        common.confirm(f"Stop answering requests for {', '.join(chosen) or 'nothing'}?", yes=yes)
    local_stack.down(here, names=chosen, keep_serving=keep_serving, say=common.say)
    common.emit({"schema": "lastgood.down/v1", "services": chosen, "kept_serving": keep_serving}, as_json=as_json, text=lambda: "down")
    return 0


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def demo(args: tuple[str, ...]) -> int:
    """Release a bad bundle on real data, roll it back under load, and check every claim. With --year: drift, under Dagster."""
    project = settings.load().project
    service = args[args.index("--service") + 1] if "--service" in args[:-1] else "flights"
    script = project / "demos" / ("year.py" if "--year" in args else f"{service}.py")
    if not script.is_file() and {"-h", "--help"} & {*args}:
        click.echo(
            f"Usage: lastgood demo [--service NAME] [--year] [--json]\n\n  {demo.help}\n\n  It is in a clone of the project, not in the wheel."
        )
        return 0
    if not script.is_file():
        raise errors.NotFound(f"{script} is missing; run the demonstration from a clone of the project")
    sys.path.insert(0, str(project))
    sys.argv = [str(script), *args]
    runpy.run_path(str(script), run_name="__main__")
    return 0
