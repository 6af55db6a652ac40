"""The parameters in a request's URL, after the question mark."""

from __future__ import annotations

from starlette.requests import Request

from fedjob.common.errors import SpecError


def query_of(request: Request, *names: str) -> dict[str, str]:
    """Return the parameters of a request that are there.

    Args:
        names: of those that it may have, each once.

    Raises:
        SpecError: it has another, or one twice: what would be ignored was meant for something.
    """
    found = request.query_params.multi_items()
    for name, _ in found:
        if name not in names:
            raise SpecError(f"expected no parameter but {', '.join(names)}, found {name[:40]!r}")
    if len(found) != len(given := dict(found)):
        raise SpecError(f"expected each parameter once, found {request.url.query[:80]!r}")
    return given
