"""TLS before a plain service of this machine, with certificates of an authority that is made for a test."""

import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest


@dataclass(frozen=True)
class Certificates:
    """Files in PEM: an authority's certificate, and one for 127.0.0.1 that it signed, with its key."""

    authority: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """For the server's side; HTTP/2 for gRPC, which wants it named."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context


def make_certificates(folder: Path) -> Certificates:
    """By the command ``openssl``; skips the test where there is none."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("certificates are made by the command openssl")
    folder.mkdir(parents=True, exist_ok=True)
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ca = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    run(
        "req",
        "-x509",
        *key,
        *ca,
        "-subj",
        "/CN=m3 tests",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-days",
        "2",
    )
    run("req", *key, "-subj", "/CN=127.0.0.1", "-keyout", "end.key", "-out", "end.csr")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions")
    run("x509", "-req", "-in", "end.csr", *signing, "-out", "end.pem", "-days", "2")
    return Certificates(folder / "ca.pem", folder / "end.pem", folder / "end.key")


class TlsFront:
    """Ends TLS on a port of this machine, and passes what is said on to a plain port."""

    def __init__(self, certificates: Certificates, port: int, *, wants_certificate: bool = False) -> None:
        self._behind = port
        self._context = certificates.context()
        if wants_certificate:
            self._context.load_verify_locations(certificates.authority)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                taken, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(taken,), daemon=True).start()

    def _serve(self, taken: socket.socket) -> None:
        try:
            front = self._context.wrap_socket(taken, server_side=True)
        except OSError:
            taken.close()  # the client did not trust us
            return
        behind = socket.create_connection(("127.0.0.1", self._behind))
        pipe(front, behind)


def pipe(front: socket.socket, behind: socket.socket) -> None:
    """Pass on what either side says until one of them is done."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    answers = threading.Thread(target=copy, args=(behind, front), daemon=True)
    answers.start()
    copy(front, behind)
    answers.join()
    front.close()
    behind.close()
