"""Which runs are served, and a change of them without a stop."""

# No `from __future__ import annotations`: see pipelines/serve/routes/adapters.py.

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, HTTPException, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from pipelines.serve.api_keys import ADMINS
from pipelines.serve.errors import described
from pipelines.serve.middleware import ASK_FOR_KEY, CLIENT, IS_ADMIN
from pipelines.serve.routes.state import StateRuns
from pipelines.serve.runs.served import NAME, Served

router = APIRouter()
Name = Annotated[str, Path(pattern=f"^{NAME.pattern}$", description="Small letters and digits.")]
NOT_YOURS: dict[int | str, dict[str, Any]] = {
    403: described("It wants an administrator's key"),
    409: described("The run cannot be served, or the name cannot go; those that are served go on"),
}
NONE: dict[int | str, dict[str, Any]] = {404: described("No run is served under this name")}


async def administrator(request: Request) -> None:
    """401 or 403 for all others, whether other requests need a key or not."""
    if request.scope.get(IS_ADMIN):
        return
    told = f"this wants an administrator's key (${ADMINS} of the service)"
    if request.scope.get(CLIENT):
        raise HTTPException(403, told)
    raise HTTPException(401, told, ASK_FOR_KEY)


ADMINISTRATORS = [Depends(administrator)]


class Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    run_dir: str = Field(
        "",
        max_length=1000,
        description="A finished run that the service can read; if left out, the one of this name"
        " as it is now, when it has been made again.",
    )


@router.get("/v1/runs", summary="The runs that are served; the first answers if none is named")
async def served_runs(request: Request, runs: StateRuns) -> dict[str, Any]:
    table = await runs.now()
    admin = request.scope.get(IS_ADMIN, False)
    return {"runs": [described_run(served, admin) for served in table.runs]}


@router.post(
    "/v1/runs/{name}",
    summary="Serve a run under this name from now on",
    description="It is loaded beside the ones that are served, and requests that are at work end"
    " with what they began with. Wants an administrator's key. One that takes longer to load than"
    " a request may goes on: GET /v1/runs says when it is there.",
    responses={**NOT_YOURS, **NONE},
    dependencies=ADMINISTRATORS,
)
async def serve_run(
    name: Name, runs: StateRuns, wanted: Annotated[Wanted | None, Body()] = None
) -> dict[str, Any]:
    return described_run(await runs.serve(name, wanted.run_dir if wanted else ""), admin=True)


@router.delete(
    "/v1/runs/{name}",
    summary="Serve a run no longer",
    description="Wants an administrator's key. The first one stays.",
    responses={**NOT_YOURS, **NONE},
    dependencies=ADMINISTRATORS,
)
async def remove_run(name: Name, runs: StateRuns) -> dict[str, Any]:
    await runs.remove(name)
    return {"runs": [described_run(served, admin=True) for served in (await runs.now()).runs]}


def described_run(served: Served, admin: bool) -> dict[str, Any]:
    """What clients may know of it; where it lies is for administrators."""
    limits = served.limits
    return {
        "name": served.name,
        "model": served.model.digest,
        "size": limits.size,
        "avatars": limits.avatars,
        "editors": limits.editors,
        "learned_steps": limits.learned_steps,
        **({"run_dir": served.model.uri} if admin else {}),
    }
