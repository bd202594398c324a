"""Ollama's routes that tell of the model, and its Python client."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import ollama
import pytest
from server_helpers import STORY, Api, ok

from autodeco_gguf import __version__
from autodeco_gguf.files.gguf import GgufFile


@pytest.mark.parametrize(
    "body", [{"model": "demo"}, {"name": "demo"}, {"model": "demo:latest"}, {"model": None, "name": "demo"}]
)
def test_show(api: Api, body: Any) -> None:
    shown = ok(api.post("/api/show", body))
    assert shown["details"]["family"] == "qwen2"
    assert shown["details"]["quantization_level"] == "F16"
    assert shown["model_info"]["general.architecture"] == "qwen2"
    assert shown["model_info"]["qwen2.context_length"] == 512
    assert not [key for key in shown["model_info"] if key.startswith("tokenizer.")]  # megabytes
    assert "completion" in shown["capabilities"]
    assert shown["template"]


def test_show_values_that_json_does_not_have(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    get = GgufFile.get
    odd = {"qwen2.rope.freq_base": float("nan"), "qwen2.attention.layer_norm_rms_epsilon": float("-inf")}
    monkeypatch.setattr(GgufFile, "get", lambda file, key, *args: odd.get(key) or get(file, key, *args))
    info = ok(api.post("/api/show", {"model": "demo"}))["model_info"]
    assert not odd.keys() & info.keys()
    assert "qwen2.block_count" in info


def test_show_what_is_not_there(api: Api) -> None:
    assert api.post("/api/show", {}).status_code == 400
    missing = api.post("/api/show", {"model": "x"})
    assert (missing.status_code, missing.json()) == (404, {"error": "model 'x' not found"})


def test_tags(api: Api) -> None:
    (model,) = ok(api.get("/api/tags"))["models"]
    assert model["name"] == model["model"] == "demo:latest"
    assert len(model["digest"]) == 64
    assert model["size"] > 1_000_000


def test_what_is_loaded(api: Api) -> None:
    (model,) = ok(api.get("/api/ps"))["models"]
    (tag,) = ok(api.get("/api/tags"))["models"]
    assert {**model, **tag} == model
    assert model["context_length"] == 512
    assert "size_vram" in model
    for hours in (-12, 14):  # a client shows it in its own time
        assert datetime.fromisoformat(model["expires_at"]).astimezone(timezone(timedelta(hours=hours))).year > 9000


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("POST", "/api/embed", "embeddings"),
        ("POST", "/api/embeddings", "embeddings"),
        ("POST", "/api/pull", "demo"),
        ("POST", "/api/push", "demo"),
        ("POST", "/api/create", "demo"),
        ("POST", "/api/copy", "demo"),
        ("DELETE", "/api/delete", "demo"),
    ],
)
def test_refused_in_words(api: Api, method: str, path: str, says: str) -> None:
    response = api.request(method, path, json={"model": "demo", "input": "x"})
    assert response.status_code == 400
    assert set(response.json()) == {"error"}
    assert says in response.json()["error"]


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags", "/v1/models", "/health"])
def test_head(api: Api, path: str) -> None:
    response = api.request("HEAD", path)
    assert (response.status_code, response.content) == (200, b"")


def test_version(api: Api) -> None:
    """Clients look for features by it: VS Code refuses what is below 0.6.4."""
    version = ok(api.get("/api/version"))["version"]
    assert [int(part) for part in version.split(".")] >= [0, 6, 4]
    assert ok(api.get("/props"))["version"] == __version__


def test_ollama_s_client(url: str) -> None:
    with ollama.Client(url, trust_env=False) as client:
        use(client)


def use(client: ollama.Client) -> None:
    (model,) = client.list().models
    assert model.model == "demo:latest"
    shown = client.show("demo:latest")
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "qwen2"
    messages, options = STORY["messages"], {"seed": 1}
    whole = client.chat("demo:latest", messages, options=options)
    assert whole.message.content is not None
    parts = [part.message.content or "" for part in client.chat("demo", messages, options=options, stream=True)]
    assert "".join(parts) == whole.message.content
    assert client.generate("demo", messages[0]["content"], options=options).response == whole.message.content
    with pytest.raises(ollama.ResponseError, match="must be of type float32"):
        client.chat("demo", messages, options={"temperature": "hot"})
    assert client.ps().models[0].model == "demo:latest"
    with pytest.raises(ollama.ResponseError, match="embeddings"):
        client.embed("demo", "x")
    with pytest.raises(ollama.ResponseError, match="with which the server began"):
        client.pull("demo")
    with pytest.raises(ollama.ResponseError, match="not found"):
        client.chat("other", messages)
