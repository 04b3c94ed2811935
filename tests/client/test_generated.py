"""What of the client is made is as the server has it now."""

import dataclasses
import importlib.util
import inspect

from fleetui_client import AsyncFleet, Fleet, answers, asynchronous

from fleetui.api.http import api, operations
from tests.conftest import ROOT

CLIENT = ROOT / "packaging" / "client"
MEND = "Run python packaging/client/generate.py."
spec = importlib.util.spec_from_file_location("generate_client", CLIENT / "generate.py")
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


def test_the_clients_types_are_those_of_the_servers_document():
    schema = api.get_openapi_schema(path_prefix="/api/")
    assert (CLIENT / "fleetui_client" / "answers.py").read_text() == generate.answers(schema), MEND
    fields = {field.name for field in dataclasses.fields(answers.RunRow)}
    assert fields == schema["components"]["schemas"]["RunRow"]["properties"].keys()


def test_both_clients_are_one():
    assert (CLIENT / "fleetui_client" / "synchronous.py").read_text() == generate.synchronous(), MEND
    public = {name for name in vars(AsyncFleet) if not name.startswith("_")}
    assert public == {name for name in vars(Fleet) if not name.startswith("_")}
    assert not any(inspect.iscoroutinefunction(each) for each in vars(Fleet).values())


def test_a_changed_answer_is_noticed():
    schema = api.get_openapi_schema(path_prefix="/api/")
    schema["components"]["schemas"]["RunRow"]["properties"]["newer"] = {"type": "integer"}
    assert "    newer: int\n" in generate.answers(schema)


def test_the_client_asks_only_for_what_there_is():
    """Each answer that it reads is one that a call of the server gives."""
    given = api.get_openapi_schema(path_prefix="/api/")["components"]["schemas"]
    assert set(generate.wanted()) <= given.keys() and len(list(operations())) > 50
    assert "fleetui" not in {name.split(".")[0] for name in vars(asynchronous)}
