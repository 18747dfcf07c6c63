"""A route that does nothing, behind Ray Serve: `python -m tests.bench.serving.nothing PORT`."""

import sys
import time

from pipelines.config.load import load_config
from pipelines.runtime.environment import set_environment
from pipelines.runtime.session import ray_session

set_environment(local=True)  # before Ray is imported

from fastapi import FastAPI, Form, Response, UploadFile  # noqa: E402
from ray import serve  # noqa: E402
from ray.serve.schema import LoggingConfig  # noqa: E402

app = FastAPI()


@serve.deployment(max_ongoing_requests=256)
@serve.ingress(app)
class Nothing:
    @app.post("/v1/translate")
    async def translate(self, image: UploadFile, concept: str = Form()) -> Response:
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
