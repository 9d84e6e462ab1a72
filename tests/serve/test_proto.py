"""The protocol keeps its own rules, and the generated code is what the protocol says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.rpc import code_pb2

from annserve.door.status import status_of
from annserve.rpc import admin_pb2, admin_pb2_grpc, job_pb2, job_pb2_grpc, search_pb2, search_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    "search.proto": (search_pb2, search_pb2_grpc),
    "admin.proto": (admin_pb2, admin_pb2_grpc),
    "job.proto": (job_pb2, job_pb2_grpc),
}


@pytest.fixture(scope="module")
def described(tmp_path_factory) -> FileDescriptorSet:
    """What the files under proto/ say, by the compiler of this environment."""
    pytest.importorskip("grpc_tools", reason="needs grpcio-tools")
    out = tmp_path_factory.mktemp("proto") / "set.bin"
    sources = sorted(str(path) for path in (ROOT / "proto").rglob("*.proto"))
    options = [f"--proto_path={ROOT / 'proto'}", f"--descriptor_set_out={out}", *sources]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options], check=True)
    return FileDescriptorSet.FromString(out.read_bytes())


def test_generated_code_is_in_step_with_the_proto_files(described):
    """Descriptors are compared, not text, which differs from compiler to compiler."""
    assert {Path(file.name).name for file in described.file} == set(MODULES)
    for file in described.file:
        messages, services = MODULES[Path(file.name).name]
        generated = type(file).FromString(messages.DESCRIPTOR.serialized_pb)
        assert generated == without_json_names(file), "run tools/generate_proto.py"
        for service in file.service:
            servicer = getattr(services, f"{service.name}Servicer")
            assert {method.name for method in service.method} <= set(dir(servicer))


def without_json_names(file: FileDescriptorProto) -> FileDescriptorProto:
    """The compiler adds names that it can derive; generated modules leave them out."""
    messages = list(file.message_type)
    while messages:
        message = messages.pop()
        messages += message.nested_type
        for field in message.field:
            field.ClearField("json_name")
    return file


@pytest.fixture(scope="module")
def buf() -> str:
    command = Path(sys.executable).with_name("buf")
    if not command.exists() and shutil.which("buf") is None:
        pytest.skip("needs buf")
    return str(command) if command.exists() else "buf"


def test_the_proto_files_pass_buf_lint_and_are_formatted(buf):
    for arguments in (["lint"], ["format", "--diff", "--exit-code"]):
        checked = subprocess.run([buf, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_message_or_method_of_an_earlier_version_is_broken(buf, tmp_path):
    """A field that changes its number is seen, so that a clean answer means something."""
    against = ["--against", "tests/golden/proto"]
    checked = subprocess.run([buf, "breaking", *against], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    broken = shutil.copytree(ROOT / "proto", tmp_path / "proto") / "annserve" / "v1" / "search.proto"
    broken.write_text(broken.read_text().replace("bytes ids = 1;", "bytes ids = 15;"))
    command = [buf, "breaking", str(tmp_path / "proto"), *against]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "ids" in checked.stdout


def test_a_method_that_nobody_wrote_yet_says_so():
    """Generated code raises NotImplementedError for it, which is no bug of the server."""
    status = status_of(NotImplementedError("Method not implemented!"), "/annserve.v1.AdminService/Guess")
    assert code_pb2.Code.Name(status.code) == "UNIMPLEMENTED"
    assert "doesn't offer" in status.message
