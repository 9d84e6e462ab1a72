"""A key is shown once, kept as a hash, compared whole, and gone within a second of its revocation."""

from __future__ import annotations

import hmac
import json

import pytest
from click.testing import CliRunner

from annserve.cli.keys import command
from annserve.errors import AccessError, InputError, NotFoundError, OutputError, RoleError
from annserve.guard import keys as keys_module
from annserve.guard.admit import OPEN, ROLE_OF, Admission
from annserve.guard.keys import KeyRing, new_key, read_keys, revoke_key
from annserve.rpc import admin_pb2, search_pb2

SEARCH = "/annserve.v1.SearchService/Search"


def shown(secret: str) -> list[tuple[str, str]]:
    return [("user-agent", "x"), ("authorization", f"Bearer {secret}")]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


def test_the_file_holds_no_key(file):
    secrets = [new_key(file, f"app {i}", "read")[1] for i in range(3)]
    text = file.read_text()
    for secret in secrets:
        assert secret not in text
        assert secret.split("_", 2)[2] not in text
        assert KeyRing(file).find(secret).name in ("app 0", "app 1", "app 2")
    assert len(set(secrets)) == 3


def test_no_two_keys_of_a_file_share_an_id(file, monkeypatch):
    ids = iter(["0000000a", "0000000a", "0000000a", "0000000b"])
    monkeypatch.setattr(keys_module.secrets, "token_hex", lambda n_bytes: next(ids))
    assert [new_key(file, "app", "read")[0].id for _ in range(2)] == ["0000000a", "0000000b"]


def test_every_stored_hash_is_compared_whole_whatever_is_shown(file, monkeypatch):
    """Of a loop that left early the time would tell how far it got."""
    secrets = [new_key(file, "app", "read")[1] for _ in range(4)]
    ring, compared = KeyRing(file), []
    monkeypatch.setattr(
        keys_module.hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or hmac_compare(a, b)
    )
    for presented in (secrets[0], secrets[3], "", "annserve_x_y", "\udcff"):
        compared.clear()
        if presented in secrets:
            ring.find(presented)
        else:
            with pytest.raises(AccessError):
                ring.find(presented)
        assert compared == [(32, 32)] * 4


hmac_compare = hmac.compare_digest


def test_a_server_notices_new_and_revoked_keys(file, monkeypatch):
    monkeypatch.setattr(keys_module, "LOOK_SECONDS", 0.0)
    key, secret = new_key(file, "first", "read")
    ring = KeyRing(file)
    _, second = new_key(file, "second", "write")
    assert ring.find(second).role == "write"
    revoke_key(file, key.id)
    with pytest.raises(AccessError, match="revoked"):
        ring.find(secret)
    file.write_text("{")
    assert ring.find(second), "a broken file changes nothing"


@pytest.mark.parametrize(("role", "allowed"), [("read", {"read"}), ("write", {"read", "write"}), ("admin", None)])
def test_a_role_allows_what_it_says_and_less(file, role, allowed):
    _, secret = new_key(file, "app", role)
    admission = Admission(file)
    for method, needed in ROLE_OF.items():
        if allowed is None or needed in allowed:
            assert admission.admit(method, shown(secret)).name == "app"
        else:
            with pytest.raises(RoleError, match=f"takes a key of role {needed}.*has role {role}"):
                admission.admit(method, shown(secret))


def test_every_method_of_the_proto_has_a_role_and_an_unknown_one_the_highest(file):
    services = [search_pb2.DESCRIPTOR.services_by_name["SearchService"]]
    services += [admin_pb2.DESCRIPTOR.services_by_name["AdminService"]]
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert methods <= set(ROLE_OF)
    assert {method for method in ROLE_OF if method.startswith("/annserve.")} == methods
    _, secret = new_key(file, "app", "write")
    with pytest.raises(RoleError, match="role admin"):
        Admission(file).admit("/annserve.v1.AdminService/AddedLater", shown(secret))


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "")],
        [("authorization", "Basic abc")],
        [("authorization", "Bearer")],
        [("authorization", b"Bearer x")],
        [("authorization-bin", b"Bearer x")],
        [("authorization", "Bearer nobody's")],
    ],
)
def test_who_shows_no_key_is_not_let_in(file, metadata):
    new_key(file, "app", "admin")
    with pytest.raises(AccessError) as refused:
        Admission(file).admit(SEARCH, metadata)
    assert not isinstance(refused.value, RoleError)
    assert "nobody's" not in str(refused.value)


def test_two_keys_in_one_call_are_none(file):
    _, secret = new_key(file, "app", "admin")
    with pytest.raises(AccessError):
        Admission(file).admit(SEARCH, shown(secret) * 2)


def test_health_needs_no_key_and_without_a_file_nothing_does(file):
    new_key(file, "app", "read")
    for method in OPEN:
        Admission(file).admit(method, [])
    Admission().admit("/annserve.v1.AdminService/DeleteCollection", [])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": [{}]}', '{"keys": [1]}'])
def test_what_is_no_file_of_keys_is_refused(file, text):
    file.write_text(text)
    with pytest.raises(InputError, match="isn't a file of keys"):
        read_keys(file)


def test_a_role_that_is_none_and_hashes_that_are_none_are_refused(file):
    new_key(file, "app", "read")
    stored = json.loads(file.read_text())
    for change in ({"role": "root"}, {"sha256": "ab"}, {"sha256": "xyz"}):
        file.write_text(json.dumps({"keys": [stored["keys"][0] | change]}))
        with pytest.raises(InputError, match="isn't a file of keys"):
            KeyRing(file)
    file.write_text('{"keys": []}')
    with pytest.raises(InputError, match="holds no keys"):
        KeyRing(file)


def test_the_command_prints_the_key_alone_and_lists_all_but_it(file):
    made = CliRunner().invoke(command, ["new", "--file", str(file), "--name", "rag", "--role", "write"])
    assert made.exit_code == 0
    secret = made.stdout.strip()
    key = KeyRing(file).find(secret)
    listed = CliRunner().invoke(command, ["list", "--file", str(file)])
    assert listed.stdout.split()[:2] == [key.id, "write"]
    told = json.loads(CliRunner().invoke(command, ["list", "--file", str(file), "--json"]).stdout)
    assert told == [{"id": key.id, "name": "rag", "role": "write", "created": key.created}]
    assert CliRunner().invoke(command, ["revoke", "--file", str(file), key.id]).exit_code == 0
    assert read_keys(file) == []
    with pytest.raises(NotFoundError, match="has no key"):
        revoke_key(file, key.id)


def test_a_key_may_go_to_a_new_file_that_nobody_else_reads(tmp_path):
    keys, mine = tmp_path / "keys.json", tmp_path / "mine.key"
    asked = ["new", "--file", str(keys), "--name", "rag", "--out", str(mine)]
    made = CliRunner().invoke(command, asked)
    assert (made.exit_code, made.stdout, mine.stat().st_mode & 0o777) == (0, "", 0o600)
    assert KeyRing(keys).find(mine.read_text().strip()).name == "rag"
    assert isinstance(CliRunner().invoke(command, asked).exception, OutputError), "never another one's key"
    assert len(read_keys(keys)) == 1
    refused = CliRunner().invoke(command, [*asked[:4], "", "--out", str(tmp_path / "none.key")])
    assert isinstance(refused.exception, InputError)
    assert not (tmp_path / "none.key").exists()


def test_where_no_keys_are_asked_for_callers_have_the_role_that_is_set():
    admission = Admission(keyless_role="write")
    admission.admit(SEARCH, [])
    admission.admit("/annserve.v1.AdminService/StartJob", [])
    admission.admit("/grpc.health.v1.Health/Check", [])
    with pytest.raises(RoleError, match="callers of this server have role write"):
        admission.admit("/annserve.v1.AdminService/DeleteCollection", [])
