"""The real clients that files are given to."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import venv
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent
# Releases before this one were built for numpy 1.
_NUMPY_2 = (1, 19)
# Flags for WebGPU computed by software: a CPU takes the place of the graphics card.
_SOFTWARE_GPU = (
    "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan", "--use-vulkan=swiftshader",
)  # fmt: skip
_TYPES = {".mjs": "text/javascript", ".wasm": "application/wasm"}
_PAGE = """<!doctype html><script type="module">
import * as ort from '/bundle.mjs';
import { run } from '/runner.mjs';
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL('/', location.href).href;
ort.env.logLevel = 'fatal';
const open = async (path) => ort.InferenceSession.create(
  new Uint8Array(await (await fetch('/file' + path)).arrayBuffer()), { executionProviders: ['PROVIDER'] });
const told = (results) => JSON.stringify({ version: ort.env.versions.web, results });
const tell = (results) => fetch('/results', { method: 'POST', body: told(results) });
await run(ort, open, await (await fetch('/spec.json')).json(), tell);
</script>"""


@dataclass(frozen=True)
class RealClient:
    """A client that is installed here.

    Attributes:
        name: heading of its column.
        entry: name of the client that ``info`` knows; empty where it knows none.
        run: function that gives the answers, of the file that lists the files to run.
    """

    name: str
    entry: str
    run: Callable[[Path], dict[str, Any]]


def releases(folder: Path | None, versions: list[str]) -> list[RealClient]:
    """Releases of onnxruntime, from folders of unpacked wheels, or installed into environments of their own."""
    run = partial(_in_folder, folder) if folder else _in_environment
    return [RealClient(f"onnxruntime {v}", f"onnxruntime-{v.rpartition('.')[0]}", partial(run, v)) for v in versions]


def packages(folder: Path, entry: str, provider: str, name: str) -> RealClient:
    """A package in a folder: OpenVINO, or onnxruntime with a provider."""
    return RealClient(name, entry, lambda spec: _python([sys.executable], spec, provider, PYTHONPATH=str(folder)))


def reference() -> RealClient:
    """Onnx's reference evaluator, of this environment."""
    return RealClient("onnx reference", "", lambda spec: _python([sys.executable], spec, "reference"))


def node(folder: Path) -> list[RealClient]:
    """onnxruntime-node and onnxruntime-web's build for WebAssembly, of the packages that are installed in a folder."""
    bundle = folder / "node_modules" / "onnxruntime-web" / "dist" / "ort.wasm.min.mjs"
    return [
        RealClient("onnxruntime-node", "onnxruntime-node", partial(_node, ("node", str(folder)))),
        RealClient("ort.wasm in Node", "onnxruntime-web", partial(_node, (str(bundle),))),
    ]


def chromium(folder: Path, program: str, patience: float) -> list[RealClient]:
    """Two builds of onnxruntime-web in headless Chromium, and the second with its provider for WebGPU by software.

    Args:
        folder: folder with node_modules.
        program: the browser.
        patience: seconds that a browser has for its files; those that it has no answer of by then were not run. On
            WebGPU each file has a browser of its own: sessions before it in a page make it slow, or stop it.
    """
    dist = folder / "node_modules" / "onnxruntime-web" / "dist"
    wasm, webgpu = dist / "ort.wasm.min.mjs", dist / "ort.webgpu.min.mjs"
    run = partial(_browser, program, patience)
    each = partial(_one_by_one, partial(run, Page(webgpu, "webgpu", _SOFTWARE_GPU)))
    return [
        RealClient("ort.wasm in Chromium", "onnxruntime-web", partial(run, Page(wasm, "wasm"))),
        RealClient("ort.webgpu in Chromium", "transformers.js", partial(run, Page(webgpu, "wasm"))),
        RealClient("WebGPU in Chromium", "webgpu", each),
    ]


def _in_folder(folder: Path, version: str, spec: Path) -> dict[str, Any]:
    return _python([sys.executable], spec, "CPUExecutionProvider", PYTHONPATH=str(folder / version))


def _in_environment(version: str, spec: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        venv.create(Path(name) / "venv", with_pip=True)
        python = str(Path(name) / "venv" / "bin" / "python")
        is_old = tuple(int(n) for n in version.split(".")[:2]) < _NUMPY_2
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, f"onnxruntime=={version}", "numpy<2" if is_old else "numpy"], check=True)
        return _python([python], spec, "CPUExecutionProvider")


def _python(command: list[str], spec: Path, kind: str, **variables: str) -> dict[str, Any]:
    """The answers of a client in Python; a file at which it crashes is an error, and the rest is run again."""
    version, results, waiting = "", dict[str, Any](), json.loads(spec.read_text())
    while waiting:
        spec.write_text(json.dumps(waiting))
        done = subprocess.run(
            [*command, str(HOME / "runner.py"), str(spec), kind], cwd=spec.parent, capture_output=True, text=True,
            check=False, env={**os.environ, "PYTHONPATH": "", **variables},
        )  # fmt: skip
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if not lines:
            sys.exit(f"{' '.join(map(str, done.args))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        version = lines[0]["version"]
        results |= {line["key"]: line["result"] for line in lines[1:]}
        waiting = [file for file in waiting if file["key"] not in results]
        if waiting:
            crashed = waiting.pop(0)
            results[crashed["key"]] = {"error": f"it crashes: {done.returncode}"}
    return {"version": version, "results": results}


def _node(arguments: tuple[str, ...], spec: Path) -> dict[str, Any]:
    command = ["node", str(HOME / "runner.mjs"), str(spec), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    answers: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answers


@dataclass(frozen=True)
class Page:
    """A page that runs files in a browser.

    Attributes:
        bundle: file of the build of onnxruntime-web.
        provider: execution provider.
        flags: flags of the browser.
    """

    bundle: Path
    provider: str
    flags: tuple[str, ...] = ()

    def files(self, spec: Path) -> dict[str, bytes | Path]:
        """Files that a server gives the page, by their paths: those of the build, the runner, and the files to run."""
        listed = json.loads(spec.read_text())
        models = {file[key] for file in listed for key in ("path", "original") if file[key]}
        return {
            **{f"/{path.name}": path for path in self.bundle.parent.iterdir()},
            **{f"/file{path}": Path(path) for path in models},
            "/": _PAGE.replace("PROVIDER", self.provider).encode(),
            "/bundle.mjs": self.bundle,
            "/runner.mjs": HOME / "runner.mjs",
            "/spec.json": spec,
        }


def _one_by_one(run: Callable[[Path], dict[str, Any]], spec: Path) -> dict[str, Any]:
    """The answers of a client that is started again for each file."""
    version, results = "", dict[str, Any]()
    for file in json.loads(spec.read_text()):
        spec.write_text(json.dumps([file]))
        answers = run(spec)
        version = answers["version"] or version
        results |= answers["results"]
    return {"version": version, "results": results}


def _browser(program: str, patience: float, page: Page, spec: Path) -> dict[str, Any]:
    """The answers of a browser; without a version where it gave none in time."""
    ended = threading.Event()
    answers: dict[str, Any] = {"version": "", "results": {}}
    files, keys = page.files(spec), {file["key"] for file in json.loads(spec.read_text())}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(urllib.parse.unquote(self.path))
            self.send_response(404 if body is None else 200)
            kind = _TYPES.get(Path(self.path).suffix, "text/html" if self.path == "/" else "application/octet-stream")
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body.read_bytes() if isinstance(body, Path) else body or b"")

        def do_POST(self) -> None:
            answers.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            if answers["results"].keys() == keys:
                ended.set()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, tempfile.TemporaryDirectory() as profile:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = ["--headless", "--no-sandbox", *(page.flags or ["--disable-gpu"]), f"--user-data-dir={profile}"]
        command = [program, *flags, f"http://127.0.0.1:{server.server_port}/"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ended.wait(patience)
        browser.terminate()
        browser.wait()
        server.shutdown()
    return answers
