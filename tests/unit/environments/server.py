"""An environment server as OpenEnv's are: /reset, /step, /health, and /ws with an environment for each connection.

Run as a module with a port.
"""

import asyncio
import base64
import io
import sys
import time
from typing import Any

import uvicorn
from fastapi import FastAPI, Header, HTTPException, WebSocket
from PIL import Image
from starlette.websockets import WebSocketDisconnect

TOKEN = "Bearer secret"


class Counter:
    """Counts to three; "down" goes back."""

    def __init__(self) -> None:
        self.at = 0

    def reset(self, body: dict[str, Any]) -> dict[str, Any]:
        self.at = int(body.get("from", 0))
        told = ", ".join(f"{key} {body[key]}" for key in ("task", "extras", "messages", "prompt_id") if key in body)
        message = f"at {self.at}, seed {body['seed']}" + (told and f", {told}")
        return {"observation": {"message": message}, "reward": None, "done": False}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        said = action["message"]
        if said == "crash":
            raise HTTPException(500, "the counter is broken")
        if said == "hang":
            time.sleep(4)
        self.at += -1 if said == "down" else 1
        observation = {"at": self.at, "screenshot": base64.b64encode(picture(self.at)).decode()}
        return {"observation": observation, "reward": 0.5, "done": self.at == 3}


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


app = FastAPI()
episodes: dict[str, Counter] = {}


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "healthy"}


@app.post("/reset")
def reset(body: dict[str, Any], authorization: str = Header("")) -> dict[str, Any]:
    if authorization != TOKEN:
        raise HTTPException(401, "who are you?")
    return episodes.setdefault(body["episode_id"], Counter()).reset(body)


@app.post("/step")
def step(body: dict[str, Any]) -> dict[str, Any]:
    return episodes[body["episode_id"]].step(body["action"])


@app.websocket("/ws")
async def session(socket: WebSocket) -> None:
    await socket.accept()
    own = Counter()
    try:
        while (message := await socket.receive_json())["type"] != "close":
            if message["type"] == "step" and message["data"]["message"] == "crash":
                await socket.send_json({"type": "error", "data": {"message": "broken", "code": "EXECUTION_ERROR"}})
                continue
            work = own.reset if message["type"] == "reset" else own.step
            answer = await asyncio.to_thread(work, message["data"])
            await socket.send_json({"type": "observation", "data": answer})
    except WebSocketDisconnect:
        return


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
