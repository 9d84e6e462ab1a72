"""A server that does nothing but answer SearchService/Search with the same bytes: what gRPC costs in Python."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

SERVICE = "annserve.v1.SearchService"


def main() -> None:
    answer = bytes(int(sys.argv[1]))
    handler = grpc.unary_unary_rpc_method_handler(lambda message, context: answer)
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Search": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"serving echo on 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
