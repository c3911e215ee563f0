"""Certificates for tests, made by the machine's openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make(folder: Path, name: str, san: str = "DNS:localhost,IP:127.0.0.1", by: str | None = None) -> None:
    """`name`.pem and `name`.key in the folder, signed by `by`.key or by itself."""
    signer = ["-CA", f"{by}.pem", "-CAkey", f"{by}.key"] if by else []
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    about = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={san}", "-days", "30"]
    out = ["-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", *curve, *signer, *about, *out], cwd=folder, check=True, capture_output=True
    )
