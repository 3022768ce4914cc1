"""``sfumato explore`` and ``sfumato serve``: a run or a model in the browser, and over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sfumato.cli import options
from sfumato.cli.app import command
from sfumato.core.errors import UserError
from sfumato.core.spec import Count, Range

EXTRA = ("starlette", "uvicorn", "anyio")
Ports = Annotated[int, Range(0, 65_535)]


def _named(flag: str, metavar: str, help: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=help, show_default=False)


Port = Annotated[
    int | None, options.option("--port", Ports, "Where to listen.  [default: the first free one from 8421 on]")
]
Host = Annotated[
    str | None, _named("--host", "ADDRESS", "Let other computers in, with a --token.  [default: 127.0.0.1]")
]
Token = Annotated[Path | None, _named("--token", "FILE", "The file of a token that every request must show.")]
Public = Annotated[str | None, _named("--public", "URL", "The address under which a proxy shows it.")]
Points = Annotated[
    int | None, options.option("--points", Count, "Training examples on the map, at most.  [default: 5000]")
]
Open = Annotated[bool, typer.Option("--open", help="Open a tab of the browser.")]


@command("explore", "sfumato explore runs/photos", "sfumato explore runs/photos --port 8500 --open")
def explore(
    run: options.Model,
    port: Port = None,
    points: Points = None,
    open: Open = False,
    host: Host = None,
    token: Token = None,
    public: Public = None,
) -> int:
    """Walk through the latent space in the browser, also of a run that still trains."""
    with _needed():
        from sfumato.app.running import open_explorer

    more = {} if points is None else {"points": points}
    app, where = open_explorer(run, host=host, port=port, token=token, public=public, **more)
    return _serve(app, where, "explorer", open)


@command("serve", "sfumato serve runs/photos", "sfumato serve runs/photos/model --port 8500")
def serve(run: options.Model, port: Port = None, host: Host = None, token: Token = None, public: Public = None) -> int:
    """Serve encode, decode, sample, reconstruct and score over HTTP; openapi.json describes them."""
    with _needed():
        from sfumato.app.running import open_service

    app, where = open_service(run, host=host, port=port, token=token, public=public)
    return _serve(app, where, "service", False)


def export_site(run: str, out: Path | None, force: bool, json: bool, other: dict[str, Any]) -> int:
    """``sfumato export --to site``: the explorer as a folder that needs no server."""
    given = next((name for name, value in other.items() if value is not None), None)
    if given is not None:
        raise UserError(f"--to site has no use for {given}.  Leave it out.")
    with _needed():
        from sfumato.app.site import write_site
    from sfumato.cli.printing import show, show_json

    page = write_site(run, out, replace=force)
    files = {item.name: item.stat().st_size for item in sorted(page.parent.iterdir())}
    if json:
        show_json({"to": "site", "place": str(page), "files": files})
        return 0
    show(page.resolve().as_uri())
    show(f"  {sum(files.values()) / 1e6:.1f} MB, of it {files['data.js'] / 1e6:.1f} MB weights, thumbnails and points")
    return 0


class _needed:
    """Turns the missing packages of the extra into a sentence."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in EXTRA:
            raise UserError(
                f"this needs {str(error.name).partition('.')[0]}, which is not installed.  pip install 'sfumato[app]'"
            ) from None


def _serve(app: Any, where: Any, what: str, browser: bool) -> int:
    from sfumato.app.server import serve
    from sfumato.cli.printing import say, show

    def ready() -> None:
        end = "?token=TOKEN" if where.house.token is not None and what == "explorer" else ""
        show(f"{what} at {where.address}{end}     Ctrl-C ends it")
        if where.house.token is None:
            say(f"from another computer:  {where.tunnel}")
        if browser:
            import webbrowser

            webbrowser.open(where.address)

    serve(app, where, ready)
    return 0
