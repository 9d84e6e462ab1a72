"""The README's grpcurl lines are calls that a server answers: by reflection and protobuf's JSON, as grpcurl does it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serve import fake
from serve.running import serving

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
LINES = re.findall(r"^grpcurl .*$", README, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    rows = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    index = fake.write(tmp_path_factory.mktemp("grpcurl") / "idx", rows)
    no_proxy = [("grpc.enable_http_proxy", 0)]
    with serving(index) as server, grpc.insecure_channel(server.address, no_proxy) as channel:
        yield channel


def described(channel: grpc.Channel, service: str) -> descriptor_pool.DescriptorPool:
    """What the server itself says of a service, as grpcurl learns it."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
    (answer,) = stub.ServerReflectionInfo(iter([request]))
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(one)
        for one in answer.file_descriptor_response.file_descriptor_proto
    ]
    pool = descriptor_pool.DescriptorPool()
    while files:
        file = next(f for f in files if all(_known(pool, name) for name in f.dependency))
        pool.Add(file)
        files.remove(file)
    return pool


def _known(pool: descriptor_pool.DescriptorPool, name: str) -> bool:
    try:
        pool.FindFileByName(name)
    except KeyError:
        return False
    return True


def call(channel: grpc.Channel, path: str, told: str) -> dict:
    service, _, name = path.partition("/")
    method = described(channel, service).FindServiceByName(service).FindMethodByName(name)
    request, response = (message_factory.GetMessageClass(one) for one in (method.input_type, method.output_type))
    data = json_format.Parse(told, request()).SerializeToString()
    answer = channel.unary_unary(f"/{path}")(data, timeout=20)
    return json.loads(json_format.MessageToJson(response.FromString(answer)))


def test_each_line_of_the_readme_is_answered(channel):
    assert len(LINES) >= 4
    for line in LINES:
        _, plain, _, told, address, path = shlex.split(line)
        assert (plain, address) == ("-plaintext", "127.0.0.1:50051")
        if "live" in told:  # which takes queries that were sampled before
            with pytest.raises(grpc.RpcError, match="has been sampled yet"):
                call(channel, path, told)
            continue
        answer = call(channel, path, told)
        if path.endswith("Search"):
            assert [set(one) for one in answer["neighbors"]] == [{"id", "distance"}] * 3
        else:
            assert "idx" in json.dumps(answer)
