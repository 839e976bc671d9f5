"""The description of the two bodies in /openapi.json; FastAPI does not know their form because they are parsed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fastapi
import pydantic

_REF = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "problems": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "row": {"type": ["integer", "null"]},
                    "field": {"type": ["string", "null"]},
                    "problem": {"type": "string"},
                },
            },
        },
    },
}


def _answer(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ERROR}}}


ANSWERS: dict[int | str, dict[str, Any]] = {
    413: _answer("the body is too long"),
    422: _answer("the body does not match the schema; the answer names row and field"),
    503: _answer("not ready yet"),
}


def body(row: type[pydantic.BaseModel], *, max_rows: int) -> dict[str, Any]:
    """The request body of a route that accepts one *row*, or rows."""
    one = {"$ref": _REF.format(model=row.__name__)}
    several = {
        "type": "object",
        "required": ["rows"],
        "additionalProperties": False,
        "properties": {"rows": {"type": "array", "items": one, "minItems": 1, "maxItems": max_rows}},
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": {"anyOf": [one, several]}}}}}


def lift_schemas(app: fastapi.FastAPI, models: Sequence[type[pydantic.BaseModel]]) -> None:
    """Add the schemas that `body` refers to to the description of *app*."""
    original = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = original()
            known = schema.setdefault("components", {}).setdefault("schemas", {})
            for model in models:
                own = model.model_json_schema(ref_template=_REF)
                known.update(own.pop("$defs", {}))
                known[model.__name__] = own
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]
