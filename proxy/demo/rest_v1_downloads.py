"""POST /api/v1/models/download and GET /api/v1/models/download/status/{job_id}. D: download.md, download-status.md.

Nothing is fetched here. A job is arithmetic over the engine's clock: it has the size that the documentation's samples
give, gets on as the switch `download_bytes_per_second` says, and ends as `download_ends` says. The model does not
appear among the others when it is complete; only another request for it then says that it is there.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from proxy.demo import rest_v1_fields as fields
from proxy.demo.behaviour import Behaviour
from proxy.demo.http import Failure, Request, Route, answer, object_form
from proxy.demo.lookalike import Lookalike

_CATALOG = {"ibm/granite-4-micro": 2_279_145_003, "google/gemma-4-26b-a4b": 17_990_911_801}
"""What there is to download, and its bytes. D: the samples of download.md and list.md."""


@dataclass(frozen=True, slots=True)
class Job:
    """A download."""

    id: str
    model: str
    total_bytes: int
    started_s: float
    """By the engine's clock."""
    started_at: datetime

    def status(self, behaviour: Behaviour, now_s: float) -> dict[str, Any]:
        """How far it is."""
        speed, ends = behaviour.download_bytes_per_second, behaviour.download_ends
        last = self.total_bytes if ends == "completed" else self.total_bytes // 2
        got = min(last, int((now_s - self.started_s) * speed))
        status: dict[str, Any] = {
            "job_id": self.id,
            "status": ends if got >= last else "downloading",
            "total_size_bytes": self.total_bytes,
            "downloaded_bytes": got,
            "started_at": _stamp(self.started_at),
        }
        end = _stamp(self.started_at + timedelta(seconds=self.total_bytes / speed))
        if status["status"] == "downloading":
            status |= {"bytes_per_second": speed, "estimated_completion": end}
        elif ends == "completed":
            status["completed_at"] = end
        return status


def _stamp(moment: datetime) -> str:
    """As JavaScript writes it: milliseconds, and Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"


def _jobs(look: Lookalike) -> dict[str, Job]:
    jobs: dict[str, Job] = look.kept.setdefault("downloads", {})
    return jobs


async def download(look: Lookalike, request: Request) -> web.Response:
    """Begin a download, or tell of the one that was begun."""
    body = request.json()
    fields.required(body, "model")
    name = fields.string(body, "model") or ""
    quantization = fields.string(body, "quantization")
    url = _split(name)
    if quantization is not None and url is None:
        words = '"quantization" is only for Hugging Face URLs'  # D, that it is; U: the words
        raise Failure(400, words, param="quantization")
    wanted = (url or name).lower()
    if look.catalog.model(wanted) is not None:
        return answer({"status": "already_downloaded"})
    if wanted not in _CATALOG:
        raise Failure(
            404,
            f'Model "{name}" not found in the catalog',
            type_="model_not_found",
            code="model_not_found",
            param="model",
        )
    return _begun(look, wanted)


def _split(name: str) -> str | None:
    """`owner/name` of a URL; None: it is none."""
    if not name.lower().startswith(("http://", "https://")):
        return None
    try:
        return "/".join(urlsplit(name).path.strip("/").split("/")[:2])
    except ValueError as error:
        raise Failure(400, f'"model" is no URL: {error}', code="invalid_string", param="model") from None


def _begun(look: Lookalike, model: str) -> web.Response:
    now, jobs = look.engine.clock.now(), _jobs(look)
    for job in jobs.values():
        status = job.status(look.behaviour, now)
        if job.model == model and status["status"] == "completed":
            return answer({"status": "already_downloaded"})
        if job.model == model and status["status"] != "failed":  # one that failed is begun anew
            return _told(job, status)
    job = Job(f"job_{secrets.token_hex(5)}", model, _CATALOG[model], now, datetime.now(UTC))
    jobs[job.id] = job
    look.log.server(f"Downloading {model}: {job.id}. It is only imitated: nothing is fetched")
    return _told(job, job.status(look.behaviour, now))


def _told(job: Job, status: dict[str, Any]) -> web.Response:
    order = ("job_id", "status", "total_size_bytes", "started_at")
    return answer({name: status[name] for name in order})


async def download_status(look: Lookalike, request: Request) -> web.Response:
    """How far a download is."""
    job = _jobs(look).get(request.parts[0])
    if job is None:
        words = f'Download job "{request.parts[0]}" not found'  # U: the words; D: the type
        raise Failure(404, words, type_="job_not_found", code="job_not_found", param="job_id")
    return answer(job.status(look.behaviour, look.engine.clock.now()))


FAMILY = "REST v1"
ROUTES = (
    Route("POST", "/api/v1/models/download", download, object_form, since="0.4.0"),
    Route("GET", "/api/v1/models/download/status/([^/]+)", download_status, object_form, since="0.4.0"),
)
