"""Who a program is: what it asks first, to learn whether its token opens anything, and which labs there are."""

from typing import Any

from ninja import Router, Schema
from pydantic import Field

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.api.doors import ANY, SESSION
from fleetui.api.shape import Moment, or_problem
from fleetui.fleet.models import ROLES, SCOPES

router = Router(auth=SESSION, tags=["lab"])


class LabRow(Schema):
    slug: str
    name: str
    role: str = Field(json_schema_extra={"enum": list(ROLES)})


class TokenRow(Schema):
    name: str
    scopes: list[str] = Field(json_schema_extra={"items": {"type": "string", "enum": list(SCOPES)}})
    lab: str | None = Field(description="The one lab that it is for; null: all of its owner's.")
    expires_at: Moment


class Me(Schema):
    name: str
    labs: list[LabRow]
    token: TokenRow | None = Field(description="By which this was asked; null: by a session.")


@router.get("/me", auth=ANY, response=or_problem(Me))
def show_me(request: PersonRequest) -> dict[str, Any]:
    """Who asks, with the role in each lab that can be reached so."""
    user = request.user
    token = access.token_of(user)
    roles = access.get_roles(user)
    labs = [lab for lab in access.get_labs(user) if token is None or token.lab is None or token.lab == lab]
    row = token and {
        "name": token.name,
        "scopes": token.scopes,
        "lab": token.lab.slug if token.lab else None,
        "expires_at": token.expires_at.isoformat(),
    }
    return {
        "name": user.get_username(),
        "labs": [{"slug": lab.slug, "name": lab.name, "role": roles[lab.slug]} for lab in labs],
        "token": row,
    }
