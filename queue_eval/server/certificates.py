"""A private certificate authority for one server: what `queue-eval server start --tls` makes.

::

    home/tls/   ca.pem        the authority; the access files contain it
                ca-key.pem    its key, mode 0600; signs the server's certificate, here and nowhere else
                server.pem    the server's certificate, with every name and address it is reached by
                server-key.pem

The authority is made once and lives as long as the home. The server's certificate is made anew at a start
when its names have changed, or when it would expire within a year.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from queue_eval.errors import UsageError
from queue_eval.transport.access import write_private

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_AUTHORITY_LIFETIME = timedelta(days=30 * 365)
_SERVER_LIFETIME = timedelta(days=10 * 365)
_RENEW_BEFORE = timedelta(days=365)
_CLOCK_TOLERANCE = timedelta(days=1)
"""How far into the past a certificate's validity begins, since clocks differ."""
WILDCARDS = ("0.0.0.0", "::", "*")  # noqa: S104 - names, nothing listens here


class Certificates(NamedTuple):
    """Paths of the files of a server; `authority` is "" for a certificate of a public authority."""

    certificate: str
    key: str
    authority: str


def provide(folder: Path, names: Iterable[str]) -> Certificates:
    """Make or renew the authority and the certificate for `names` in `folder`, where needed.

    Raises UsageError when the package cryptography is missing.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise UsageError(
            'making certificates needs the package cryptography: pip install "queue-eval[tls]"; '
            "or bring your own with --tls-cert and --tls-key"
        ) from error
    folder.mkdir(mode=0o700, exist_ok=True)
    found = Certificates(*(str(folder / name) for name in ("server.pem", "server-key.pem", "ca.pem")))
    authority_key_file = folder / "ca-key.pem"
    if not authority_key_file.exists() or not Path(found.authority).exists():
        _make_authority(Path(found.authority), authority_key_file)
    wanted = frozenset(names)
    if _is_due(Path(found.certificate), Path(found.key), wanted):
        _make_certificate(found, authority_key_file, wanted)
    return found


def server_names(host: str, advertise: str) -> set[str]:
    """Every name and address by which a server that listens on `host` may be reached."""
    import psutil

    names = {socket.gethostname(), "localhost", "127.0.0.1", "::1"}
    names |= {name for name in (host, advertise) if name and name not in WILDCARDS}
    if host in WILDCARDS:
        for addresses in psutil.net_if_addrs().values():
            names |= {
                address.address.partition("%")[0]
                for address in addresses
                if address.family in (socket.AF_INET, socket.AF_INET6)
            }
    return names


def _make_authority(file: Path, key_file: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    key = _new_key(key_file)
    name = _name(f"queue_eval of {socket.gethostname()}")
    builder = (
        _builder_for(name, name, key, _AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    _write_certificate(file, builder.sign(key, hashes.SHA256()))


def _make_certificate(made: Certificates, authority_key_file: Path, names: frozenset[str]) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    authority = x509.load_pem_x509_certificate(Path(made.authority).read_bytes())
    authority_key = serialization.load_pem_private_key(authority_key_file.read_bytes(), password=None)
    assert isinstance(authority_key, EllipticCurvePrivateKey)
    key = _new_key(Path(made.key))
    builder = (
        _builder_for(_name("queue_eval server"), authority.subject, key, _SERVER_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(map(_general_name, sorted(names))), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
    )
    _write_certificate(Path(made.certificate), builder.sign(authority_key, hashes.SHA256()))


def _is_due(certificate: Path, key: Path, names: frozenset[str]) -> bool:
    from cryptography import x509

    if not key.exists():
        return True
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        known = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return True
    if {_general_name(name) for name in names} != set(known):
        return True
    return found.not_valid_after_utc - datetime.now(UTC) < _RENEW_BEFORE


def _builder_for(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_TOLERANCE)
        .not_valid_after(now + lifetime)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, common[:64])])


def _new_key(file: Path) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(file, pem.decode())
    return key


def _write_certificate(file: Path, certificate: x509.Certificate) -> None:
    from cryptography.hazmat.primitives import serialization

    write_private(file, certificate.public_bytes(serialization.Encoding.PEM).decode())
