"""fleet models: pretrained ones that runs can build on."""

import typer

from fleetui_client.synchronous import Fleet
from fleetui_client.terminal import AsJson, Most, OfLab, age, first, show, table

models = typer.Typer(no_args_is_help=True, help="Pretrained models that runs can build on.")


@models.command("list")
def list_models(limit: Most = 50, archived: bool = False, lab: OfLab = "", as_json: AsJson = False) -> None:
    """The newest first. A recipe names one by its sha256, as in --set text_encoder=SHA256."""
    with Fleet(lab=lab) as fleet:
        found = first(fleet.list_models(archived=archived), limit)
    if as_json:
        return show(found)
    rows = [
        (each.id, each.name, ", ".join(each.serves), f"{each.size / 2**20:.1f} MiB", age(each.created_at), each.sha256)
        for each in found
    ]
    return table(("id", "name", "serves", "size", "added", "sha256"), rows, "There are none.")
