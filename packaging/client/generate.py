"""Makes what of the client is made: answers.py from the server's OpenAPI document, synchronous.py from asynchronous.py.

    python packaging/client/generate.py

A test compares: where the server's answers change, the client's types do, or the test fails.
"""

import keyword
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGE = HERE / "fleetui_client"
WIDTH = 120

Schema = dict[str, Any]

ASYNC_TO_SYNC = (
    (r'"""The client for programs with an event loop\. .*?"""', '"""Made from asynchronous.py by ../generate.py."""'),
    (r"\bimport asyncio\n", ""),
    (r"import os\n", "import os\nimport time\n"),
    (r"\bawait asyncio\.to_thread\(([^()]+)\)", r"\1()"),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsyncFleet\b", "Fleet"),
    (r"\bAsyncClient\b", "Client"),
    (r"\bAsyncBaseTransport\b", "BaseTransport"),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"\baclose\b", "close"),
    (r"\baread\b", "read"),
    (r"\baiter_bytes\b", "iter_bytes"),
    (r"from collections\.abc import Iterator, Iterable", "from collections.abc import Iterable, Iterator"),
)


def synchronous() -> str:
    """The text of synchronous.py."""
    text = (PACKAGE / "asynchronous.py").read_text()
    for pattern, instead in ASYNC_TO_SYNC:
        text = re.sub(pattern, instead, text, flags=re.DOTALL)
    return formatted(text)


def formatted(text: str) -> str:
    """As all code here is: without `await` a line may be short enough to be one."""
    ruff = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(PACKAGE / "synchronous.py"), "-"]
    return subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout


def wanted() -> list[str]:
    """The answers that the client's methods read."""
    text = (PACKAGE / "asynchronous.py").read_text()
    block = re.search(r"from fleetui_client\.answers import \((.*?)\)", text, flags=re.DOTALL)
    assert block is not None
    return re.findall(r"\w+", block[1])


def answers(schema: Schema) -> str:
    """The text of answers.py: a dataclass for each answer that is read, and for what stands in it."""
    known = schema["components"]["schemas"]
    found: list[str] = []
    for name in wanted():
        collect(name, known, found)
    parts = [
        '"""What the server answers. Made from its OpenAPI document by ../generate.py."""\n\n'
        "from dataclasses import dataclass\nfrom datetime import datetime\nfrom typing import Any\n"
    ]
    for name in found:
        shape = known[name]
        lines = ["@dataclass(frozen=True)", f"class {name}:"]
        lines += docstring(shape.get("description", "") or "An answer of the server.")
        for field, part in shape["properties"].items():
            assert not keyword.iskeyword(field), field
            lines += comment(part.get("description", ""))
            lines.append(f"    {field}: {type_of(part)}")
        parts.append("\n".join(lines) + "\n")
    return "\n\n".join(parts)


def collect(name: str, known: Schema, found: list[str]) -> None:
    """Into `found`, first what a shape refers to, then itself."""
    if name in found:
        return
    for reference in re.findall(r"'#/components/schemas/(\w+)'", str(known[name])):
        collect(reference, known, found)
    found.append(name)


def type_of(part: Schema) -> str:
    """As Python writes it."""
    if "$ref" in part:
        return str(part["$ref"].rpartition("/")[2])
    if "anyOf" in part:
        return " | ".join(dict.fromkeys(type_of(each) for each in part["anyOf"]))
    kind = part.get("type")
    if isinstance(kind, list):
        return " | ".join(type_of(part | {"type": each}) for each in kind)
    if kind == "array":
        return f"list[{type_of(part.get('items', {}))}]"
    if kind == "object":
        inner = part.get("additionalProperties")
        return f"dict[str, {type_of(inner) if isinstance(inner, dict) and inner else 'Any'}]"
    if kind == "string" and part.get("format") == "date-time":
        return "datetime"
    plain = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None", None: "Any"}
    return plain[kind]


def docstring(text: str) -> list[str]:
    """Within the width."""
    lines = wrapped(text, WIDTH - 11)
    if len(lines) == 1:
        return [f'    """{text}"""', ""]
    return [f'    """{lines[0]}', *indent(lines[1:], ""), '    """', ""]


def comment(text: str) -> list[str]:
    """Above the field that it is about."""
    return indent(wrapped(text, WIDTH - 6), "# ") if text else []


def indent(lines: list[str], before: str) -> list[str]:
    """By one level."""
    return [f"    {before}{line}" for line in lines]


def wrapped(text: str, width: int) -> list[str]:
    """Words of a text, line by line."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def server_schema() -> Schema:
    """The OpenAPI document of the server that lies beside; nothing of it has to run."""
    sys.path.insert(0, str(HERE.parents[1]))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleetui.settings")
    import django

    django.setup()
    from fleetui.api.http import api

    return dict(api.get_openapi_schema(path_prefix="/api/"))


def main() -> None:
    """Write both files."""
    (PACKAGE / "answers.py").write_text(answers(server_schema()))
    (PACKAGE / "synchronous.py").write_text(synchronous())


if __name__ == "__main__":
    main()
