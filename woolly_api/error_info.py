"""WoollyError <-> ErrorInfo, for both ends of the wire. No HTTP here, so that the client needs no web framework."""

from woolly_worker.contract.errors import InternalError, WoollyError
from woolly_worker.contract.jobs import ErrorInfo


def _classes() -> dict[str, type[WoollyError]]:
    """code -> the class that has it. A base shares its code with nobody below it, InvalidRequest excepted."""
    found: dict[str, type[WoollyError]] = {}
    waiting: list[type[WoollyError]] = [WoollyError]
    while waiting:
        cls = waiting.pop(0)
        found[cls.code] = cls  # breadth first: of those that share a code, the most specific stays
        waiting += cls.__subclasses__()
    return found


def class_of(code: str) -> type[WoollyError] | None:
    return _classes().get(code)


def info_of(error: WoollyError) -> ErrorInfo:
    """The error as the contract carries it. An error of our own making keeps its message to our log."""
    info = ErrorInfo.of(error)
    if type(error) in (InternalError, WoollyError):
        return info.model_copy(update={"message": "Woolly met an error of its own."})
    return info


def error_from_info(info: ErrorInfo) -> WoollyError:
    """The exception that `info` describes: of the class with its code, or an InternalError for an unknown code."""
    cls = class_of(info.code)
    if cls is not None:
        return cls(info.message, param=info.param, details=dict(info.details))
    return InternalError(info.message, param=info.param, details={"code": info.code, **info.details})
