"""The answer to a form that changes something: it is carried out, and the next page says what became of it."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fedjob.common.errors import FedjobError


def carry_out(request: Request, back: str, change: Callable[[], str]) -> Response:
    """Carry out a change, and go to a page that says what became of it.

    Args:
        back: path of that page.
        change: returns in words what was done.
    """
    try:
        request.state.session.note("good", change())
    except FedjobError as error:
        request.state.session.note("bad", str(error))
    return RedirectResponse(back, status_code=303)
