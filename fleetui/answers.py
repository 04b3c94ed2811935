"""JSON over HTTP as the standard has it: no NaN goes out, and nothing comes in that can't be kept."""

import json
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest, JsonResponse
from ninja.parser import Parser
from ninja.renderers import JSONRenderer
from ninja.responses import NinjaJSONEncoder

from robots.strict_json import StrictEncoder, loads


class PageEncoder(StrictEncoder, DjangoJSONEncoder):
    pass


class JsonAnswer(JsonResponse):
    def __init__(self, data: Any, **options: Any) -> None:
        super().__init__(data, encoder=PageEncoder, **options)


class ApiEncoder(StrictEncoder, NinjaJSONEncoder):
    pass


class StrictRenderer(JSONRenderer):
    encoder_class: type[json.JSONEncoder] = ApiEncoder


class StrictParser(Parser):
    def parse_body(self, request: HttpRequest) -> Any:
        return loads(request.body)
