"""What a user would write by hand: `uvicorn tests.bench.serving.plain:app --workers N`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Form, Response, UploadFile

from tests.bench.serving.work import work


@asynccontextmanager
async def loaded(_: FastAPI) -> AsyncIterator[None]:
    work()
    yield


app = FastAPI(lifespan=loaded)


@app.post("/v1/translate")
def translate(concept: Annotated[str, Form()], image: UploadFile) -> Response:
    return Response(work().answer(concept, image.file.read()), media_type="image/png")
