"""A real Prometheus scrapes through a TLS-terminating proxy, with and without a path prefix, using /sd."""

import contextlib
import signal
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.processes import Process, free_ports
from tests.support.prometheus import CLUSTERS, Prometheus, answers
from tests.support.waiting import until
from tests.web.test_server import certificate


@contextlib.contextmanager
def proxy(behind: str, prefix: str, folder: Path, *, speaks: bool) -> Iterator[str]:
    """End TLS before a server, take a prefix away, and say so in headers or not; gives the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {
                name: self.headers[name] for name in ("Host", "Accept", "Accept-Encoding") if name in self.headers
            }
            if speaks:
                headers |= {"X-Forwarded-Proto": "https", "X-Forwarded-Prefix": prefix}
            path = self.path.removeprefix(prefix)
            found = self.path.startswith(f"{prefix}/")
            with httpx.stream("GET", f"{behind}{path}", headers=headers, timeout=30) as answer:
                body = b"".join(answer.iter_raw())
                self.send_response(answer.status_code if found else 404)
                for name in ("Content-Type", "Content-Encoding"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(folder, "proxy"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}{prefix}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("prefix", "speaks"), [("", True), ("", False), ("/gpus/of/all", True)], ids=["plain", "silent", "prefix"]
)
def test_every_target_is_up_behind_a_proxy_that_ends_tls(
    prometheus_program: str, demo: str, tmp_path: Path, prefix: str, speaks: bool
) -> None:
    with proxy(demo, prefix, tmp_path, speaks=speaks) as url:
        (port,) = free_ports(1)
        trusting = {"tls_config": {"insecure_skip_verify": True}}
        job = {
            "job_name": "gpuid",
            "scheme": "https",
            "honor_labels": True,
            "scrape_interval": "1s",
            "scrape_timeout": "1s",
            **trusting,
            "http_sd_configs": [{"url": f"{url}/sd", "refresh_interval": "1s", **trusting}],
        }
        config = tmp_path / "prometheus.yml"
        config.write_text(yaml.safe_dump({"scrape_configs": [job]}))
        options = ("--config.file", config, "--storage.tsdb.path", tmp_path / "data", "--log.level", "warn")
        process = Process([prometheus_program, *options, "--web.listen-address", f"127.0.0.1:{port}"], tmp_path / "log")
        process.start()
        try:
            server = Prometheus(f"http://127.0.0.1:{port}")
            until(lambda: answers(f"{server.url}/-/ready", process))
            until(lambda: sum(target["health"] == "up" for target in server.targets()), CLUSTERS + 1)
            assert all(target["scrapeUrl"].startswith(f"{url}/metrics") for target in server.targets())
        finally:
            process.stop(signal.SIGKILL)
