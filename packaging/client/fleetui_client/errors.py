"""What can go wrong; each is a FleetError whose text says what it is and what to do."""


class FleetError(Exception):
    """Something that was asked of the fleet did not come about."""


class NotLoggedIn(FleetError):
    """No address or no token is known."""


class Unreachable(FleetError):
    """Nobody answers at the fleet's address, or it says that it can't just now."""


class BadAnswer(FleetError):
    """What answers is no fleet, or one of a version that this client does not know."""


class Refused(FleetError):
    """The fleet said no: `status` of HTTP, `code` for programs, `problems` by the field that is wrong."""

    def __init__(self, sentence: str, status: int, code: str = "", problems: dict[str, str] | None = None):
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.problems = problems or {}


class NotAuthorised(Refused):
    """The token opens nothing (401), or not this: its scopes or its owner's role don't allow it (403)."""
