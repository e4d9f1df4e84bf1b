"""The command that serves."""

from typing import TYPE_CHECKING, Annotated

import typer

from mtp_code.cli.options import Device, Dtype, ModelDir, NumThreads
from mtp_code.cli.show import log_to_stderr
from mtp_code.errors import InputError

if TYPE_CHECKING:
    from mtp_code.decoding.engine import NumDrafts

commands = typer.Typer()


@commands.command()
def serve(
    run: ModelDir,
    host: Annotated[
        str, typer.Option(help="Beyond loopback only with MTP_CODE_API_KEY set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="Of the model. [default: the run's]")] = None,
    batch_rows: Annotated[int, typer.Option(min=1, help="Answers written side by side.")] = 16,
    drafts: Annotated[str, typer.Option(help="A round: 0 … heads − 1, auto, or tree.")] = "auto",
    max_waiting: Annotated[int, typer.Option(min=0, help="More are refused with 429.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until answered.")] = 600.0,
    drain: Annotated[float, typer.Option(min=0, help="Seconds to finish after SIGTERM.")] = 30.0,
    num_threads: NumThreads = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Serve a run through OpenAI's API.

    With continuous batching; until SIGTERM or SIGINT.
    """
    from mtp_code.serving.extra import require_extra

    require_extra()
    from mtp_code.serving.address import Address, api_key_for, listen

    address = Address(host, port)
    api_key = api_key_for(address)
    num_drafts = _num_drafts(drafts)
    with listen(address) as listening:  # what is wrong with it is told before torch is loaded
        from mtp_code.serving.hosting import in_process

        with in_process(
            run, batch_rows, num_drafts, num_threads, device, dtype, prepare=log_to_stderr
        ) as when_loaded:
            # Imported while the engine loads.
            from mtp_code.serving.server import build_service, serve_until_told

            served_name = name or run.resolve().name
            service = build_service(when_loaded(), served_name, max_waiting, timeout, api_key)
            bound_host, bound_port = listening.getsockname()[:2]
            where = f"[{bound_host}]" if ":" in bound_host else bound_host
            typer.echo(f"{run}: {served_name} at http://{where}:{bound_port}/v1", err=True)
            serve_until_told(service, listening, drain)


def _num_drafts(given: str) -> "NumDrafts":
    if given == "auto":
        return "auto"
    if given == "tree":
        return "tree"
    if not given.isdecimal():
        raise InputError(f"--drafts {given}: no number, and neither auto nor tree")
    return int(given)
