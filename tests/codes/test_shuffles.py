"""The byte shuffles that scans are made of, as each machine compiles them."""

from __future__ import annotations

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from annserve.codes.kernels import look_up


@pytest.mark.parametrize(
    ("shuffle", "triple", "features", "instruction"),
    [
        ("avx2", "x86_64-unknown-linux-gnu", "+avx2", "vpshufb"),
        ("neon", "aarch64-unknown-linux-gnu", "+neon", "tbl"),
    ],
)
def test_a_look_up_becomes_the_machines_own_instruction(shuffle, triple, features, instruction):
    """Compiled for both machines wherever the test runs; that answers agree is proven where a machine is at hand."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    places, entries = (ir.VectorType(ir.IntType(8), lanes) for lanes in (32, 16))
    module = ir.Module()
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(places, [entries, places]), "step")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(look_up(builder, shuffle, *function.args))
    machine = llvm.Target.from_triple(triple).create_target_machine(features=features, opt=3)
    assembly = machine.emit_assembly(llvm.parse_assembly(str(module)))
    lines = [line.split()[0] for line in assembly.splitlines() if line.startswith("\t") and line.strip()]
    assert lines.count(instruction) == {"avx2": 1, "neon": 2}[shuffle]
    assert len([line for line in lines if not line.startswith(".")]) < 12
