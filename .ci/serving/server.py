"""A server of vLLM on loopback with the plugin, and requests to it; for `load.py` and `measure.py`."""

import asyncio
import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endfor %}"
)
BLOCK = 32


@contextmanager
def serve(model, settings, *flags, log):
    """Start a server, wait until it answers, and stop it; yields its address and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "model"]
    command += ["--dtype", "float32", "--enforce-eager", "--block-size", str(BLOCK), "--max-num-seqs", "16"]
    command += ["--chat-template", TEMPLATE, "--chat-template-content-format", "openai"]
    command += [
        "--trust-request-mm-kwargs",
        "--hf-overrides",
        json.dumps({"vlm_bridge": settings}),
        *map(str, flags),
    ]
    with tempfile.TemporaryDirectory() as metrics, open(log, "w") as output:
        more = {"PROMETHEUS_MULTIPROC_DIR": metrics, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **more},
            start_new_session=True,
        )
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                if process.poll() is not None:
                    raise SystemExit(f"the server ended with {process.returncode}; see {log}")
                try:
                    urllib.request.urlopen(address + "/health", timeout=1)
                    break
                except OSError:
                    time.sleep(0.5)
            else:
                raise SystemExit(f"the server does not answer; see {log}")
            yield address, process.pid
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def body(image, text, settings=None, tokens=3, **more):
    """Return the body of a request about one image."""
    png = io.BytesIO()
    image.save(png, format="PNG")
    url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    found = {"model": "model", "messages": [{"role": "user", "content": content}], "temperature": 0}
    found |= {"max_tokens": tokens, "add_special_tokens": True, **more}
    return found if settings is None else {**found, "mm_processor_kwargs": {"vlm_bridge": settings}}


def metrics(address):
    """Return the server's metrics: name to value, summed over labels."""
    found = {}
    for line in urllib.request.urlopen(address + "/metrics").read().decode().splitlines():
        parts = re.match(r"([a-zA-Z_:]+)(?:\{.*\})? ([-+0-9.e]+)$", line)
        if parts:
            found[parts[1]] = found.get(parts[1], 0.0) + float(parts[2])
    return found


def memory(pid):
    """Return the resident memory in MiB of the process and of those that it started."""
    import psutil

    process = psutil.Process(pid)
    return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / 2**20


async def ask(session, address, request):
    """Send a request and return the status and the answer."""
    async with session.post(address + "/v1/chat/completions", json=request) as response:
        return response.status, await response.json(content_type=None)


def run(work):
    """Run a coroutine that takes a client session for any number of connections."""
    import aiohttp

    async def inside():
        # A server closes a connection that was idle for seconds, which on a busy machine happens while it is used again.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=300)
        ) as session:
            return await work(session)

    return asyncio.run(inside())
