"""Refuses query parameters that a route does not have, so that none is ever accepted and ignored."""

from fastapi import Request
from fastapi.routing import APIRoute

from woolly_worker.contract.errors import InvalidRequest


async def no_unknown_parameters(request: Request) -> None:
    """A dependency of every route that reads what callers ask for."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = {field.alias for field in route.dependant.query_params}
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
    if unknown:
        allowed = f"it has {', '.join(sorted(known))}" if known else "it has none"
        raise InvalidRequest(
            f"{unknown[0]}: unknown query parameter of {request.method} {route.path} ({allowed})",
            param=unknown[0],
            details={"fields": unknown[:100]},
        )
