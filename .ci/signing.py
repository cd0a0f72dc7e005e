"""What `puna sign` and the reference implementation of OpenSSF Model Signing make of each other's signatures.

Every case is told to both: what one signs the other verifies, and what either must refuse the other refuses, too. Keys and
certificates are made here; the public test vectors are those that the reference's own tests are run with.

    python signing.py PUNA VECTORS
"""

import contextlib
import datetime
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import traceback

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from model_signing import hashing, signing, verifying

PUNA = pathlib.Path(sys.argv[1]).resolve()
VECTORS = pathlib.Path(sys.argv[2]).resolve()
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
FILES = {
    "config.json": b"{}",
    "weights.bin": bytes(i * 7 % 251 for i in range(10_000)),
    "sub/a b.bin": b"\x00" * 100,
    "sub.txt": b"between the folder and its files, by some orders",
    "empty": b"",
    "für alle.txt": "ß".encode(),
    ".hidden/x": b"x",
    ".gitattributes": b"*",
    ".git/HEAD": b"ref",
}


def run(*arguments):
    """Runs puna; tells whether it succeeded. Bad input is exit code 2, nothing else is."""
    home = os.environ | {"PUNA_HOME": str(pathlib.Path.cwd() / "home")}
    done = subprocess.run([PUNA, *map(str, arguments)], capture_output=True, text=True, env=home)
    assert done.returncode in (0, 2), done
    run.said = done.stdout + done.stderr
    return done.returncode == 0


def reference(act):
    """Runs the reference; tells whether it succeeded."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            act()
        return True
    except Exception as error:
        run.said = f"{type(error).__name__}: {error}"
        return False


def config(model, signature, symlinks):
    """The configuration of the reference's command line."""
    inside = [signature.relative_to(model)] if signature.is_relative_to(model) else []
    return hashing.Config().set_ignored_paths(paths=inside, ignore_git_paths=True).set_allow_symlinks(symlinks)


class Key:
    """The method with a key."""

    def __init__(self, private, public):
        self.private, self.public = private, public

    def puna_sign(self):
        return ["--key", self.private]

    def puna_trust(self):
        return ["--key", self.public]

    def sign(self):
        return signing.Config().use_elliptic_key_signer(private_key=self.private)

    def trust(self):
        return verifying.Config().use_elliptic_key_verifier(public_key=self.public)


class Certificate:
    """The method with a certificate."""

    def __init__(self, private, leaf, chain, roots):
        self.private, self.leaf, self.chain, self.roots = private, leaf, chain, roots

    def puna_sign(self):
        chain = [argument for path in self.chain for argument in ("--chain", path)]
        return ["--key", self.private, "--certificate", self.leaf, *chain]

    def puna_trust(self):
        return [argument for path in self.roots for argument in ("--root", path)]

    def sign(self):
        return signing.Config().use_certificate_signer(
            private_key=self.private, signing_certificate=self.leaf, certificate_chain=self.chain
        )

    def trust(self):
        return verifying.Config().use_certificate_verifier(certificate_chain=self.roots)


def puna_signs(method, model, signature, *options):
    return run("sign", model, *method.puna_sign(), "-o", signature, *options)


def reference_signs(method, model, signature, symlinks=False):
    return reference(lambda: method.sign().set_hashing_config(config(model, signature, symlinks)).sign(model, signature))


def puna_verifies(method, model, signature, *options):
    return run("verify", model, "--signature", signature, *method.puna_trust(), *options)


def reference_verifies(method, model, signature, symlinks=False, lenient=False):
    verifier = method.trust().set_hashing_config(config(model, signature, symlinks)).set_ignore_unsigned_files(lenient)
    return reference(lambda: verifier.verify(model, signature))


def expect(result, what):
    assert result, f"{what}: {run.said.strip()}"


def both_verify(method, model, signature, what):
    expect(puna_verifies(method, model, signature), f"{what}: puna verifies")
    expect(reference_verifies(method, model, signature), f"{what}: the reference verifies")


def both_refuse(method, model, signature, what):
    expect(not puna_verifies(method, model, signature), f"{what}: puna refuses")
    expect(not reference_verifies(method, model, signature), f"{what}: the reference refuses")


def model(name="model"):
    at = pathlib.Path(name).resolve()
    for path, contents in FILES.items():
        path = at / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    return at


@contextlib.contextmanager
def changed(path, contents):
    """While something is written to a file, which is made, or taken away where there is nothing to write."""
    before = path.read_bytes() if path.exists() else None
    path.unlink() if contents is None else path.write_bytes(contents)
    try:
        yield
    finally:
        path.unlink(missing_ok=True) if before is None else path.write_bytes(before)


def write(name, contents):
    at = pathlib.Path(name).resolve()
    at.write_bytes(contents)
    return at


def write_key(name, key, form=serialization.PrivateFormat.PKCS8):
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = write(f"{name}.key", key.private_bytes(encoding, form, plain))
    public = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Key(private, write(f"{name}.pub", public))


def issue(subject, key, issuer, by, start, end, ca, digest=None, usages=("digital_signature",), extended=True):
    """A certificate."""
    name = lambda name: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = dict.fromkeys(
        ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"], False)  # fmt: skip
    usage |= dict.fromkeys(["key_cert_sign"] if ca else usages, True)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    if ca or usages:
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    if extended and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    return builder.sign(by, digest or hashes.SHA256())


def pem(name, certificate):
    return write(f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM))


def chain(name, root_key, leaf=None, root=None, digest=None):
    """A root, one between, and a leaf, each valid around now unless it is said otherwise."""
    always = {"start": NOW - 100 * DAY, "end": NOW + 100 * DAY}
    between_key, leaf_key = (ec.generate_private_key(CURVES[curve]) for curve in ("P-384", "P-256"))
    root = issue("Root", root_key, "Root", root_key, ca=True, digest=digest, **(always | (root or {})))
    between = issue("Between", between_key, "Root", root_key, ca=True, digest=digest, **always)
    leaf = issue("Leaf", leaf_key, "Between", between_key, ca=False, **(always | (leaf or {})))
    private = write_key(f"{name}-leaf", leaf_key).private
    return Certificate(private, pem(f"{name}-leaf", leaf), [pem(f"{name}-between", between)], [pem(f"{name}-root", root)])


def everything(method, at, name):
    """Both ways, and what both must refuse of each."""
    by_puna, by_reference = at / "by-puna.sig", at.parent / f"{name}.sig"
    expect(puna_signs(method, at, by_puna), f"{name}: puna signs")
    # Two signatures in one folder are not of each other; the other one lies beside it.
    both_verify(method, at, by_puna, f"{name}, by puna")
    by_puna = by_puna.rename(at.parent / f"{name}-puna.sig")
    expect(reference_signs(method, at, by_reference), f"{name}: the reference signs")
    for by, signature in (("puna", by_puna), ("the reference", by_reference)):
        both_verify(method, at, signature, f"{name}, by {by}")
        for what, path, contents in [
            ("a changed byte", "weights.bin", FILES["weights.bin"][:-1] + b"\xff"),
            ("a byte more", "weights.bin", FILES["weights.bin"] + b"\x00"),
            ("a file more", "sub/extra.py", b"import os"),
            ("a file less", "config.json", None),
            ("an empty file more", "sub/empty", b""),
        ]:
            with changed(at / path, contents):
                both_refuse(method, at, signature, f"{name}, by {by}, {what}")
        both_verify(method, at, signature, f"{name}, by {by}, as it was")


def keys():
    at = model()
    other = write_key("other", ec.generate_private_key(CURVES["P-256"]))
    for form in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL):
        for curve in CURVES if form is serialization.PrivateFormat.PKCS8 else ["P-521"]:
            method = write_key(curve, ec.generate_private_key(CURVES[curve]), form)
            everything(method, at, curve)
            for signature in (f"{curve}.sig", f"{curve}-puna.sig"):
                both_refuse(other, at, pathlib.Path(signature).resolve(), f"{signature} by another key")
    # The key pair that puna makes.
    expect(run("sign", "--new-key", "own"), "puna makes keys")
    everything(Key(pathlib.Path("own").resolve(), pathlib.Path("own.pub").resolve()), at, "own")
    # The command line itself, once.
    arguments = ["verify", "key", at, "--public_key", "own.pub", "--signature", "own-puna.sig"]
    done = subprocess.run([pathlib.Path(sys.executable).with_name("model_signing"), *arguments], capture_output=True)
    expect(done.returncode == 0, f"the reference's command line verifies: {done}")


def certificates():
    at = model()
    ecdsa = lambda curve: ec.generate_private_key(CURVES[curve])
    everything(chain("chain", ecdsa("P-521")), at, "chain")
    everything(chain("rsa", rsa.generate_private_key(65537, 2048), digest=hashes.SHA512()), at, "rsa")

    def signed(name, method):
        """By both, where both sign; puna does not sign what nobody should accept."""
        signature = pathlib.Path(f"{name}.sig").resolve()
        expect(reference_signs(method, at, signature), f"{name}: the reference signs")
        return signature

    # Another root, also one of the same name.
    right, wrong = chain("right", ecdsa("P-256")), chain("wrong", ecdsa("P-256"))
    signature = signed("right", right)
    both_verify(right, at, signature, "the right root")
    right.roots = wrong.roots
    both_refuse(right, at, signature, "a wrong root")
    # A root whose time was over before the leaf's began.
    old = chain("old", ecdsa("P-256"), root={"start": NOW - 900 * DAY, "end": NOW - 500 * DAY})
    both_refuse(old, at, signed("old", old), "an expired root")
    # A leaf that is for something else.
    useless = chain("useless", ecdsa("P-256"), leaf={"usages": ("key_agreement",), "extended": False})
    both_refuse(useless, at, signed("useless", useless), "not for signing")
    expect(not puna_signs(useless, at, "useless-puna.sig"), "puna does not sign with it either")
    nothing = chain("nothing", ecdsa("P-256"), leaf={"usages": (), "extended": False})
    both_refuse(nothing, at, signed("nothing", nothing), "without usages")
    # One that an ordinary certificate vouches for.
    leaf_key = ecdsa("P-256")
    leaf = issue("Below", leaf_key, "Leaf", serialization.load_pem_private_key(right.private.read_bytes(), None),
                 NOW - DAY, NOW + DAY, ca=False)  # fmt: skip
    below = Certificate(write_key("below", leaf_key).private, pem("below", leaf), [right.leaf, *right.chain],
                        chain("again", ecdsa("P-256")).roots)  # fmt: skip
    both_refuse(below, at, signed("below", below), "an issuer that is no authority")
    # Without what lies between. (The reference does not sign without a chain.)
    short = chain("short", ecdsa("P-256"))
    short.chain = []
    signature = pathlib.Path("short.sig").resolve()
    expect(puna_signs(short, at, signature), "puna signs without a chain")
    both_refuse(short, at, signature, "a gap")
    # Trusted as it is, be it an authority's or not.
    key = ecdsa("P-384")
    for name, ca in (("alone", False), ("self", True)):
        own = pem(name, issue("Own", key, "Own", key, NOW - DAY, NOW + DAY, ca=ca))
        method = Certificate(write_key(name, key).private, own, [own], [own])
        if ca:
            # An authority's key usage is for certificates alone.
            both_refuse(method, at, signed(name, method), "an authority's own certificate")
        else:
            everything(method, at, name)
    # Where the two differ, on purpose: the specification asks for a certificate that is valid, the reference for one that
    # was valid at its own beginning.
    expired = chain("expired", ecdsa("P-256"), leaf={"start": NOW - 90 * DAY, "end": NOW - 30 * DAY})
    signature = signed("expired", expired)
    expect(not puna_verifies(expired, at, signature), "an expired leaf: puna refuses")
    day = (NOW - 60 * DAY).strftime("%Y-%m-%d")
    expect(puna_verifies(expired, at, signature, "--at", day), "an expired leaf on a day when it was valid")
    # A signature of one kind is not checked as one of the other.
    some = write_key("some", ecdsa("P-256"))
    both_refuse(some, at, signature, "a certificate's signature by a key")
    expect(reference_signs(some, at, pathlib.Path("some.sig").resolve()), "the reference signs by a key")
    both_refuse(right, at, pathlib.Path("some.sig").resolve(), "a key's signature by a certificate")


def serializations():
    at = model()
    method = write_key("key", ec.generate_private_key(CURVES["P-256"]))
    changes = [("weights.bin", FILES["weights.bin"][:-1] + b"\xff"), ("sub/extra.py", b"import os"), ("config.json", None)]

    def verifies(signature):
        # Its command line only verifies whole files by SHA-256; its library finds out by itself what was signed. Of its own
        # shards it does not: it writes their size as a floating-point number and then can't count with it.
        return reference(lambda: method.trust().verify(at, signature))

    by_puna, by_reference = (pathlib.Path(name).resolve() for name in ("puna.sig", "reference.sig"))
    for size in (1, 999, 1000, 10_000, 1_000_000):
        expect(puna_signs(method, at, by_puna, "--shards", size), "puna signs shards")
        hasher = hashing.Config().use_shard_serialization(shard_size=size)
        expect(reference(lambda: method.sign().set_hashing_config(hasher).sign(at, by_reference)), "shards")
        for signature in (by_puna, by_reference):
            expect(puna_verifies(method, at, signature), f"{signature.name}, shards of {size}: puna verifies")
            if signature == by_puna:
                expect(verifies(signature), f"{signature.name}, shards of {size}: the reference verifies")
            for path, contents in changes:
                with changed(at / path, contents):
                    expect(not puna_verifies(method, at, signature), f"{signature.name}, {path}: puna refuses")
                    expect(not verifies(signature), f"{signature.name}, {path}: the reference refuses")
    for name in ("blake2", "blake3"):
        hasher = hashing.Config().use_file_serialization(hashing_algorithm=name)
        expect(reference(lambda: method.sign().set_hashing_config(hasher).sign(at, by_reference)), name)
        expect(puna_verifies(method, at, by_reference), f"{name}: puna verifies")
        for path, contents in changes:
            with changed(at / path, contents):
                expect(not puna_verifies(method, at, by_reference), f"{name}, {path}: puna refuses")


def one_file():
    at = model() / "weights.bin"
    method = write_key("key", ec.generate_private_key(CURVES["P-256"]))
    signature = pathlib.Path("file.sig").resolve()
    for by, sign in (("puna", puna_signs), ("the reference", reference_signs)):
        expect(sign(method, at, signature), f"{by} signs a file")
        both_verify(method, at, signature, f"a file, by {by}")
        with changed(at, b"other"):
            both_refuse(method, at, signature, f"a changed file, by {by}")


def links():
    at = model()
    method = write_key("key", ec.generate_private_key(CURVES["P-256"]))
    signature = pathlib.Path("links.sig").resolve()
    (at / "link").symlink_to("config.json")
    for by, sign in (("puna", puna_signs), ("the reference", reference_signs)):
        expect(not sign(method, at, signature), f"{by} refuses links")
    for by, signs in (
        ("puna", lambda: puna_signs(method, at, signature, "--allow-symlinks")),
        ("the reference", lambda: reference_signs(method, at, signature, symlinks=True)),
    ):
        expect(signs(), f"{by} signs links")
        expect(puna_verifies(method, at, signature), f"links, by {by}: puna verifies")
        expect(reference_verifies(method, at, signature, symlinks=True), f"links, by {by}: the reference verifies")
        with changed(at / "config.json", b"[]"):
            expect(not puna_verifies(method, at, signature), f"a changed link, by {by}: puna refuses")
    # A link in place of a file that was signed as one.
    (at / "link").unlink()
    expect(puna_signs(method, at, signature), "puna signs")
    shutil.move(at / "config.json", "aside")
    (at / "config.json").symlink_to(pathlib.Path("aside").resolve())
    both_refuse(method, at, signature, "a link in place of a file")


def unsigned():
    at = model()
    method = write_key("key", ec.generate_private_key(CURVES["P-256"]))
    signature = pathlib.Path("lenient.sig").resolve()
    expect(puna_signs(method, at, signature), "puna signs")
    (at / "extra").write_bytes(b"extra")
    expect(puna_verifies(method, at, signature, "--ignore-unsigned"), "puna passes over it")
    expect(reference_verifies(method, at, signature, lenient=True), "the reference passes over it")
    for path, contents in (("weights.bin", b"other"), ("config.json", None)):
        with changed(at / path, contents):
            expect(not puna_verifies(method, at, signature, "--ignore-unsigned"), f"{path}: puna refuses all the same")
            expect(not reference_verifies(method, at, signature, lenient=True), f"{path}: the reference does")
    (at / "extra").unlink()
    expect(puna_signs(method, at, signature, "--ignore", "sub"), "puna leaves out a folder")
    (at / "sub/more").write_bytes(b"more")
    both_verify(method, at, signature, "what was left out may change")


def kept():
    shape = '{"dim": 64, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "ffn_dim": 96, "vocab_size": 1024, "context_length": 64}'
    write("shape.json", shape.encode())
    method = write_key("key", ec.generate_private_key(CURVES["P-256"]))
    for arguments in (
        ["synth", "shape.json", "--format", "BF16", "-o", "small"],
        ["import", "small", "--name", "small"],
        ["sign", "local/small", "--key", method.private],
        ["keep", "local/small", "--to", "bundle"],
    ):
        expect(run(*arguments), " ".join(map(str, arguments)))
    bundle = pathlib.Path("bundle").resolve()
    both_verify(method, bundle, bundle / ".puna/manifest.sig", "a bundle")
    with changed(bundle / "extra", b"extra"):
        both_refuse(method, bundle, bundle / ".puna/manifest.sig", "a bundle with a file more")


def vectors():
    n = 0
    certificate = Certificate(None, None, [], [VECTORS / "keys/certificate/ca-cert.pem"])
    key = Key(None, VECTORS / "keys/certificate/signing-key-pub.pem")
    for at in sorted(VECTORS.glob("v*-*")):
        version, _, kind = at.name.partition("-")
        method = certificate if kind == "certificate" else key
        signature = at / "model.sig"
        name = at.name
        # Those of the first versions are of one file, and what newer ones leave out is told on the command line there.
        target = at / "signme-1" if version in ("v0.3.1", "v1.0.0") and kind == "elliptic-key" else at
        options = ["--ignore-unsigned"] if version == "v1.0.1" else []
        if kind == "sigstore":
            expect(not puna_verifies(method, at, signature), f"{name}: refused")
            assert "Sigstore" in run.said, run.said
        elif version == "v0.2.0":
            # Signed with a mistake in the envelope's encoding.
            expect(not puna_verifies(method, at, signature), f"{name}: refused")
            assert "before 1.0" in run.said, run.said
        else:
            expect(puna_verifies(method, target, signature, *options), f"{name}: verified")
            copy = pathlib.Path(name).resolve()
            shutil.copytree(at, copy)
            (copy / "signme-1").write_bytes(b"other")
            target = copy / "signme-1" if target != at else copy
            expect(not puna_verifies(method, target, copy / "model.sig", *options), f"{name}, changed: refused")
        n += 1
    assert n >= 13, f"{n} vectors in {VECTORS}"


def main():
    cases = [keys, certificates, serializations, one_file, links, unsigned, kept, vectors]
    n_failed = 0
    for case in cases:
        with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
            try:
                case()
                print(f"{case.__name__}: ok", flush=True)
            except Exception:
                n_failed += 1
                print(f"{case.__name__}: FAILED\n{traceback.format_exc()}", flush=True)
    print(f"{len(cases) - n_failed} passed, {n_failed} failed")
    sys.exit(n_failed > 0)


main()
