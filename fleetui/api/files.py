"""What the OpenAPI document says of calls that answer with a file (fleetui/answers.py), from the middle on where a
download goes on.
"""

from typing import Any

from fleetui.api.shape import ERRORS, Problem

# The `response` of a call that answers with a file, and what the OpenAPI document says of it.
FILE: dict[Any, Any] = {206: None, 416: Problem, ERRORS: Problem}
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
FILE_EXTRA = {
    "parameters": [
        {
            "name": "Range",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "bytes=N-: only what follows the first N bytes.",
        }
    ],
    "responses": {
        200: {"description": "The file; its ETag says which one.", "content": BINARY},
        206: {"description": "The asked part of it.", "content": BINARY},
    },
}
