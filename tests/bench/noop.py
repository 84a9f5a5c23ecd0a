"""The yardstick: a FastAPI route that does nothing, under the services' own server settings."""

import sys

from fastapi import FastAPI

from shared.http.server import serve

app = FastAPI()


@app.get("/noop")
async def noop() -> dict[str, bool]:
    return {"ok": True}


serve(app, "127.0.0.1", int(sys.argv[1]))
