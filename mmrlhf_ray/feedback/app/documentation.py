"""/api/openapi.json: what programs may send, and what they get. No page of it is served: those load scripts from
elsewhere."""

from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from mmrlhf_ray.feedback.app.access import AsAnyAccount

router = APIRouter()
_VERSION = "1"
"""Of what is described."""
_MODELS = "#/components/schemas/{model}"


@router.get("/api/openapi.json")
def openapi(request: Request, caller: AsAnyAccount) -> Response:
    """This document: OpenAPI 3.1."""
    return JSONResponse(document(request.app))


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of /api. Bodies are read by dependencies of ours, which FastAPI does not look into: each
    says what it takes as `documented`."""
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.path.startswith("/api/")]
    made = get_openapi(title=app.title, version=_VERSION, routes=routes)
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for route in routes:
        taken = [type_ for need in route.dependant.dependencies if (type_ := getattr(need.call, "documented", None))]
        for method in route.methods:
            operation = made["paths"][route.path_format][method.lower()]
            for type_ in taken:
                schema = TypeAdapter(type_).json_schema(ref_template=_MODELS)
                schemas |= schema.pop("$defs", {})
                operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
            operation["security"] = [{"token": []}]
    made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return made
