"""The same by LitServe: `python -m tests.bench.serving.peer PORT WORKERS`."""

import sys

import litserve
from fastapi import Request, Response

from tests.bench.serving.work import work


class Translate(litserve.LitAPI):
    def setup(self, device: str) -> None:
        work()

    async def decode_request(self, request: Request) -> tuple[str, bytes]:
        return request["concept"], await request["image"].read()

    async def predict(self, asked: tuple[str, bytes]) -> bytes:
        return work().answer(*asked)

    async def encode_response(self, made: bytes) -> Response:
        return Response(made, media_type="image/png")


if __name__ == "__main__":
    api = Translate(api_path="/v1/translate", enable_async=True)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(sys.argv[2]))
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False
    )
