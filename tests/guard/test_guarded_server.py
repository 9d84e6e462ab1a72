"""A server with certificates and keys, in a process of its own: who gets in, who doesn't, and what the log tells."""

from __future__ import annotations

import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from certificates import encrypted, needs_openssl, self_signed, signed
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from annserve.client import AdminClient
from annserve.errors import InputError, RoleError
from annserve.guard.keys import new_key, revoke_key
from annserve.guard.tls import Certificates
from annserve.rpc import admin_pb2, admin_pb2_grpc, search_pb2, search_pb2_grpc
from annserve.serve.server import WATCH_THREADS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "serve"))

import fake
from running import run, serving

pytestmark = needs_openssl
NO_PROXY = ("grpc.enable_http_proxy", 0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    rows = np.random.default_rng(7).integers(0, 256, (40, 4)).astype(np.uint8)
    return fake.write(tmp_path_factory.mktemp("guarded") / "photos", rows)


def trusting(address: str, certificate: Path, mine: tuple[Path, Path] | None = None) -> grpc.Channel:
    pair = (mine[1].read_bytes(), mine[0].read_bytes()) if mine else (None, None)
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes(), *pair)
    options = [NO_PROXY, ("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(address, credentials, options=options)


def ask(channel: grpc.Channel, key: str | None = None, **metadata: str):
    sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]
    sent += [("authorization", f"Bearer {key}")] if key else []
    request = search_pb2.SearchRequest(vector=search_pb2.Vector(values=[1, 2, 3, 4]), k=1)
    return search_pb2_grpc.SearchServiceStub(channel).Search.with_call(request, metadata=sent, timeout=10)


def refusal(channel: grpc.Channel, key: str | None = None, **metadata: str) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        ask(channel, key, **metadata)
    return refused.value


def test_keys_decide_over_every_call_and_never_stand_in_the_log(photos, tmp_path):
    certificate, private = self_signed(tmp_path)
    keys = tmp_path / "keys.json"
    reader, reading = new_key(keys, "rag", "read")
    _, administering = new_key(keys, "ops", "admin")
    options = ("--tls-certificate", certificate, "--tls-key", private, "--keys", keys, "--log-calls", "all")
    with serving(photos, options=tuple(map(str, options))) as server:
        with trusting(server.address, certificate) as channel:
            answer, call = ask(channel, reading, x_request_id="order-66")
            assert answer.k == 1
            assert ("x-request-id", "order-66") in call.trailing_metadata()

            stranger = refusal(channel)
            assert stranger.code() == grpc.StatusCode.UNAUTHENTICATED
            (info, *_) = rpc_status.from_call(stranger).details
            told = error_details_pb2.ErrorInfo()
            assert info.Unpack(told)
            assert told.reason == "ACCESS_ERROR"
            assert told.metadata["request_id"] in dict(stranger.trailing_metadata())["x-request-id"]
            forged = reading[:-1] + ("A" if reading[-1] != "A" else "B")
            assert refusal(channel, forged).code() == grpc.StatusCode.UNAUTHENTICATED

            admin = admin_pb2_grpc.AdminServiceStub(channel)
            delete = admin_pb2.DeleteCollectionRequest(collection="photos")
            for key, code in ((reading, "PERMISSION_DENIED"), (None, "UNAUTHENTICATED")):
                sent = [("authorization", f"Bearer {key}")] if key else []
                with pytest.raises(grpc.RpcError) as refused:
                    admin.DeleteCollection(delete, metadata=sent, timeout=10)
                assert refused.value.code() == getattr(grpc.StatusCode, code)
            admin.GetServerInfo(
                admin_pb2.GetServerInfoRequest(), metadata=[("authorization", f"bearer {administering}")], timeout=10
            )

            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10
            )
            with pytest.raises(grpc.RpcError, match="asks for a key"):
                next(reflected)

            revoke_key(keys, reader.id)
            time.sleep(1.2)
            assert refusal(channel, reading).code() == grpc.StatusCode.UNAUTHENTICATED
        _, log = server.stop()
    assert "method=/annserve.v1.SearchService/Search code=OK" in log
    assert "request_id=order-66 collection=photos queries=1 caller=rag" in log
    for secret in (reading, administering, forged):
        assert secret not in log
        assert secret.split("_", 2)[2] not in log


def test_a_stream_ends_with_its_key(photos, tmp_path):
    """A call is let in once, but a stream may last for ever: each of its requests is judged."""
    certificate, private = self_signed(tmp_path)
    keys = tmp_path / "keys.json"
    reader, reading = new_key(keys, "rag", "read")
    new_key(keys, "ops", "admin")
    options = ("--tls-certificate", certificate, "--tls-key", private, "--keys", keys)
    search = search_pb2.SearchRequest(vector=search_pb2.Vector(values=[1, 2, 3, 4]), k=1)
    with (
        serving(photos, options=tuple(map(str, options))) as server,
        trusting(server.address, certificate) as channel,
    ):

        def requests():
            yield search_pb2.SearchStreamRequest(sequence=1, search=search)
            revoke_key(keys, reader.id)
            time.sleep(1.2)
            yield search_pb2.SearchStreamRequest(sequence=2, search=search)

        answers = search_pb2_grpc.SearchServiceStub(channel).SearchStream(
            requests(), metadata=[("authorization", f"Bearer {reading}")], timeout=10
        )
        assert next(answers).sequence == 1
        with pytest.raises(grpc.RpcError) as refused:
            next(answers)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_strangers_who_watch_health_leave_room_to_callers(photos, tmp_path):
    """Without a key: more calls than the server has room for, and names that nobody else would use."""
    certificate, private = self_signed(tmp_path)
    keys = tmp_path / "keys.json"
    _, reading = new_key(keys, "rag", "read")
    options = ("--tls-certificate", certificate, "--tls-key", private, "--keys", keys)
    with (
        serving(photos, options=tuple(map(str, options))) as server,
        trusting(server.address, certificate) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watches, codes = [], []
        for i in range(300):
            watch = health.Watch(health_pb2.HealthCheckRequest(service=f"s-{i}"), timeout=30)
            watches.append(watch)
            try:
                assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            except grpc.RpcError as error:
                codes.append(error.code())
        assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED] * (300 - WATCH_THREADS)
        assert ask(channel, reading)[0].k == 1
        for watch in watches:
            watch.cancel()
        deadline = time.monotonic() + 10
        while True:
            try:
                assert next(health.Watch(health_pb2.HealthCheckRequest(), timeout=10)).status == 1
                break
            except grpc.RpcError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        with pytest.raises(grpc.RpcError, match="no service has such a name"):
            next(health.Watch(health_pb2.HealthCheckRequest(service="x" * 1_000), timeout=10))


def test_plain_text_and_unknown_certificates_get_no_answer(photos, tmp_path):
    certificate, private = self_signed(tmp_path)
    other, _ = self_signed(tmp_path, "other")
    with serving(photos, options=("--tls-certificate", str(certificate), "--tls-key", str(private))) as server:
        with grpc.insecure_channel(server.address, options=[NO_PROXY]) as plain:
            assert refusal(plain).code() == grpc.StatusCode.UNAVAILABLE
        with trusting(server.address, other) as suspicious:
            assert refusal(suspicious).code() == grpc.StatusCode.UNAVAILABLE
        with trusting(server.address, certificate) as channel:
            ask(channel)


def test_only_clients_whose_certificate_is_signed_get_in_where_one_is_asked_for(photos, tmp_path):
    authority = self_signed(tmp_path, "authority")
    certificate, private = self_signed(tmp_path)
    ours, strangers = signed(tmp_path, authority, "ours"), self_signed(tmp_path, "stranger")
    options = ("--tls-certificate", certificate, "--tls-key", private, "--tls-client-ca", authority[0])
    with serving(photos, options=tuple(map(str, options))) as server:
        with trusting(server.address, certificate, ours) as channel:
            ask(channel)
        for mine in (None, strangers):
            with trusting(server.address, certificate, mine) as channel:
                assert refusal(channel).code() == grpc.StatusCode.UNAVAILABLE


def test_a_renewed_certificate_is_shown_by_the_status_page_too(photos, tmp_path):
    certificate, private = self_signed(tmp_path)
    keys = tmp_path / "keys.json"
    _, reading = new_key(keys, "rag", "read")
    options = ("--tls-certificate", certificate, "--tls-key", private, "--keys", keys, "--http-listen", "0.0.0.0:0")
    with serving(photos, options=tuple(map(str, options))) as server:
        port = server.status_url().rstrip("/").rpartition(":")[2]

        def page(asked: str = "status.json", **headers: str) -> bytes:
            context = ssl.create_default_context(cafile=str(certificate))
            request = urllib.request.Request(f"https://127.0.0.1:{port}/{asked}", headers=headers)
            with urllib.request.urlopen(request, context=context, timeout=10) as answer:
                return answer.read()

        assert b"photos" in page(Authorization=f"Bearer {reading}")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            page()
        self_signed(tmp_path)
        assert page("healthz") == b"ok\n"


def test_a_renewed_certificate_is_shown_to_the_next_connection(photos, tmp_path):
    certificate, private = self_signed(tmp_path)
    first = certificate.read_bytes()
    with serving(photos, options=("--tls-certificate", str(certificate), "--tls-key", str(private))) as server:
        with trusting(server.address, certificate) as channel:
            ask(channel)
        certificate.write_text("half of a rotation")
        held = tmp_path / "first.pem"
        held.write_bytes(first)
        with trusting(server.address, held) as channel:
            ask(channel)
        self_signed(tmp_path)
        with trusting(server.address, certificate) as channel:
            ask(channel)
        with trusting(server.address, held) as channel:
            assert refusal(channel).code() == grpc.StatusCode.UNAVAILABLE


def test_a_public_address_takes_certificates_and_keys(photos, tmp_path):
    certificate, private = self_signed(tmp_path)
    keys = tmp_path / "keys.json"
    new_key(keys, "app", "read")
    tls = ("--tls-certificate", str(certificate), "--tls-key", str(private))
    for options in ((), tls, ("--keys", str(keys))):
        refused = run("serve", str(photos), "--listen", "0.0.0.0:0", *options)
        assert (refused.returncode, "--insecure" in refused.stderr) == (InputError.exit_code, True), options
    with serving(photos, options=("--listen", "0.0.0.0:0", *tls, "--keys", str(keys))) as server:
        assert server.address.startswith("0.0.0.0:")


@pytest.mark.parametrize("fault", ["another key", "no PEM", "missing", "passphrase"])
def test_files_that_encrypt_nothing_are_refused_before_a_port_is_opened(tmp_path, fault):
    certificate, private = self_signed(tmp_path)
    if fault == "another key":
        _, private = self_signed(tmp_path, "other")
    elif fault == "no PEM":
        certificate.write_bytes(b"\0" * 100)
    elif fault == "missing":
        certificate.unlink()
    else:
        private = encrypted(private)
    says = (
        r"server\.pem can't be read: no such file"
        if fault == "missing"
        else r"server\.pem .*aren't a certificate and its"
    )
    with pytest.raises(InputError, match=says) as refused:
        Certificates(certificate, private).server_credentials()
    assert refused.value.field == "tls_certificate"
    good = self_signed(tmp_path, "good")
    with pytest.raises(InputError, match="holds no certificates"):
        Certificates(*good, client_ca=good[1]).server_credentials()


def test_callers_without_keys_may_only_do_what_the_setting_allows(photos, tmp_path):
    options = ("--keyless-role", "read", "--data", str(tmp_path / "data"))
    with serving(photos, options=options) as server, AdminClient(server.address) as admin:
        assert [one.name for one in admin.collections()] == ["photos"]
        with pytest.raises(RoleError, match="callers of this server have role read"):
            admin.delete_collection("photos")
