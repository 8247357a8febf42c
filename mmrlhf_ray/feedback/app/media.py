"""GET /media/<sha256>: the bytes, in ranges too, for whoever is logged in."""

from fastapi import APIRouter
from fastapi.responses import FileResponse

from mmrlhf_ray.feedback.app.access import AsAnnotator
from mmrlhf_ray.feedback.app.state import State
from mmrlhf_ray.feedback.collect.media_files import find_media

router = APIRouter()


@router.get("/media/{sha256}")
def media(sha256: str, caller: AsAnnotator, state: State) -> FileResponse:
    """Media under their content type as it was told from the bytes; they never change under this address."""
    with state.database.read() as session:
        row, path = find_media(session, state.config, sha256)
    # Private: for this browser only, as the next person at it may have no account.
    headers = {"cache-control": "private, max-age=3600, immutable"}
    return FileResponse(path, media_type=row.mime, headers=headers, content_disposition_type="inline")
