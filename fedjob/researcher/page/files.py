"""The files that the researcher's page hands out: pictures of a result, the download of a job, its dossier."""

from __future__ import annotations

import io
import tempfile
import threading
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from fedjob.common.errors import FedjobError, JobError
from fedjob.researcher.dossier.dossier import write_dossier
from fedjob.researcher.page.desk import ResearcherDesk
from fedjob.researcher.results.download import download
from fedjob.researcher.results.result import JobResult
from fedjob.researcher.storage.folder import JobFolder

WAIT_S = 20.0
"""Time for which a picture or a file waits for others that are made: one at a time is."""


class ResearcherFiles:
    """The makers of files; one at a time works, since they cost memory and processor time."""

    def __init__(self, desk: ResearcherDesk) -> None:
        self._desk = desk
        self._at_work = threading.Lock()

    def routes(self) -> list[BaseRoute]:
        """Return the addresses of the files; what computes anew is asked for by a form."""
        return [
            Route("/jobs/{id}/picture.svg", self._picture, methods=["GET"]),
            Route("/jobs/{id}/download", self._download, methods=["POST"]),
            Route("/jobs/{id}/dossier", self._dossier, methods=["POST"]),
        ]

    def _picture(self, request: Request) -> Response:
        folder = self._desk.folder_of(request)
        if folder is None:
            return self._desk.templates.missing(request)
        with self._one_at_a_time():
            figure = JobResult.load(folder).plot()
            drawn = io.BytesIO()
            figure.savefig(drawn, format="svg")
        return Response(drawn.getvalue(), media_type="image/svg+xml")

    def _download(self, request: Request) -> Response:
        def make(folder: JobFolder, room: Path) -> Path:
            download(folder, room / "job")
            packed = room / f"{folder.path.name}.zip"
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for path in sorted((room / "job").rglob("*")):
                    if path.is_file():
                        archive.write(path, f"{folder.path.name}/{path.relative_to(room / 'job').as_posix()}")
            return packed

        return self._made(request, "application/zip", make)

    def _dossier(self, request: Request) -> Response:
        def make(folder: JobFolder, room: Path) -> Path:
            return write_dossier(folder, room / f"dossier_{folder.path.name}.html")

        return self._made(request, "text/html", make)

    def _made(self, request: Request, kind: str, make: Callable[[JobFolder, Path], Path]) -> Response:
        """Return a file that is made in a folder of its own, which goes once it was sent."""
        folder = self._desk.folder_of(request)
        if folder is None:
            return self._desk.templates.missing(request)
        room: Any = tempfile.TemporaryDirectory(prefix="fedjob-page-")
        try:
            with self._one_at_a_time():
                path = make(folder, Path(room.name))
        except FedjobError as error:
            room.cleanup()
            request.state.session.note("bad", str(error))
            return RedirectResponse(f"/jobs/{folder.path.name}/result", status_code=303)
        except BaseException:
            room.cleanup()
            raise
        return FileResponse(
            path, media_type=kind, filename=path.name, background=BackgroundTask(room.cleanup)
        )

    @contextmanager
    def _one_at_a_time(self) -> Any:
        if not self._at_work.acquire(timeout=WAIT_S):
            raise JobError("the page is making another file: try again in a moment")
        try:
            yield
        finally:
            self._at_work.release()
