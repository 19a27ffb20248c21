"""TCP with a token, and with certificates on both sides."""

import datetime
import ipaddress
import socket

import finetuned
import pytest
from conftest import start_daemon
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

TOKEN = "0123456789abcdef0123456789abcdef"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def write_certificate(folder, name, issuer=None):
    """A certificate for 127.0.0.1 with its key; without an issuer (certificate, key) an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .issuer_name(issuer[0].subject if issuer else subject)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
    )
    certificate = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / f"{name}.key").chmod(0o600)
    return certificate, key


def test_a_token_opens_tcp_and_nothing_else_does(tmp_path, monkeypatch):
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN + "\n")
    token_file.chmod(0o600)
    address = f"127.0.0.1:{free_port()}"
    daemon = start_daemon(f"tcp:\n  address: {address}\n  token_file: {token_file}\n")
    with finetuned.connect(address, token=TOKEN) as ft:
        assert ft.info().version
    monkeypatch.setenv("FINETUNED_SERVER", address)
    with finetuned.connect(token_file=str(token_file)) as ft:
        assert ft.address.target == address
    for wrong in (None, "x" * 32):
        with pytest.raises(finetuned.PermissionDenied):
            finetuned.connect(token=wrong)
    daemon.terminate()


def test_certificates_on_both_sides(tmp_path):
    ca = write_certificate(tmp_path, "ca")
    for name in ("server", "client"):
        write_certificate(tmp_path, name, ca)
    address = f"127.0.0.1:{free_port()}"
    daemon = start_daemon(
        f"tcp:\n  address: {address}\n  tls_certificate: {tmp_path}/server.pem\n"
        f"  tls_key: {tmp_path}/server.key\n  tls_client_ca: {tmp_path}/ca.pem\n"
    )
    files = {k: str(tmp_path / v) for k, v in {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}.items()}
    with finetuned.connect(address, **files) as ft:
        assert ft.info().version
    with pytest.raises(finetuned.FinetunedError):
        finetuned.connect(address, ca=files["ca"])
    with pytest.raises(finetuned.InvalidArgument, match="cannot read the CA file"):
        finetuned.connect(address, ca="/no/such/ca.pem")
    daemon.terminate()
