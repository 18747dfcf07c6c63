"""A route that does nothing, behind Ray Serve: `python -m tests.bench.serving.nothing PORT`."""

import sys
import time

from fastapi import FastAPI, Form, Response, UploadFile
from ray import serve
from ray.serve.schema import LoggingConfig

from pipelines.config.load import load_config
from pipelines.runtime.session import ray_session

app = FastAPI()


@serve.deployment(max_ongoing_requests=256)
@serve.ingress(app)
class Nothing:
    @app.post("/v1/translate")
    async def translate(self, concept: str = Form(), image: UploadFile = None) -> Response:
        return Response(await image.read(), media_type="image/png")


def main(port: int) -> None:
    with ray_session(load_config([])):
        quiet = LoggingConfig(log_level="WARNING")
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
        serve.run(Nothing.bind(), logging_config=quiet)
        while True:
            time.sleep(60)


if __name__ == "__main__":
    main(int(sys.argv[1]))
