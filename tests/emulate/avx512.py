"""Runs the compiled AVX-512 loop of the matrix product on a machine without AVX-512, and holds it to sums taken one after another.

Needs: pip install unicorn capstone pyelftools numpy, and an x86-64 Linux program of the engine with symbols, such as the bench's.
Run:   cargo bench --bench throughput --no-run      # names the program
       python tests/emulate/avx512.py target/release/deps/throughput-*

Unicorn computes the integer instructions and hands over the vector instructions, which it does not know; NumPy does those. A fused
multiply-add is the f64 sum of the exact product, rounded to f32: it can differ from a fused one by double rounding, and
the sums it is compared with are made in the same way. Exit code 0: all tiles have the same bits, and nothing was read or
written outside of the operands. A machine with AVX-512 needs none of this: `cargo test` runs the loop itself.
"""

import re
import struct
import sys

import numpy as np
import unicorn
import unicorn.x86_const as registers
from capstone import CS_ARCH_X86, CS_MODE_64, Cs
from capstone.x86 import X86_OP_MEM, X86_OP_REG
from elftools.elf.elffile import ELFFile

ROWS, COLUMNS, TILES = 12, 32, 3
# Fields of `Tile` in the order of its declaration, which is the order that the compiler gives fields of equal size.
FIELDS = ["k", "a", "a_row", "a_col", "b", "c", "c_row", "init", "init_row", "ahead", "pace"]
PROGRAM, HEAP, HEAP_SIZE, STACK, STACK_SIZE, RETURN = 0x10000000, 0x40000000, 64 << 20, 0x80000000, 1 << 20, 0x90000000
MOVES = {"vmovups", "vmovaps", "vmovupd", "vmovapd", "vmovdqu", "vmovdqa", "vmovdqu32", "vmovdqu64", "vmovdqa32", "vmovdqa64"}
ZEROS = {"vxorps", "vxorpd", "vpxor", "vpxord", "vpxorq"}


def fused(x, y, z):
    """x y + z, rounded once to f64 and once to f32."""
    return (x.astype(np.float64) * y.astype(np.float64) + z.astype(np.float64)).astype(np.float32)


class Machine:
    """A processor with the program in memory; vector instructions are done here."""

    def __init__(self, path):
        self.cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.disassembler = Cs(CS_ARCH_X86, CS_MODE_64)
        self.disassembler.detail = True
        self.vectors = np.zeros((32, 16), np.float32)
        self.accesses, self.decoded, self.counts = [], {}, {}
        with open(path, "rb") as file:
            elf = ELFFile(file)
            segments = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
            top = max(s["p_vaddr"] + s["p_memsz"] for s in segments)
            self.cpu.mem_map(PROGRAM, (top + 0xFFFF) & ~0xFFFF)
            for segment in segments:
                self.cpu.mem_write(PROGRAM + segment["p_vaddr"], segment.data())
            symbols = list(elf.get_section_by_name(".symtab").iter_symbols())
        self.strip = next((PROGRAM + s["st_value"] for s in symbols if "avx512_strip" in s.name), None)
        if self.strip is None:
            sys.exit(f"{path}: no symbol avx512_strip, expected a program of the engine with symbols")
        self.cpu.mem_map(HEAP, HEAP_SIZE)
        self.cpu.mem_map(STACK, STACK_SIZE)
        self.cpu.mem_map(RETURN, 4096)
        for symbol in symbols:
            if "kernel" in symbol.name and "avx512" in symbol.name and symbol["st_size"]:
                self.hand_over(PROGRAM + symbol["st_value"], symbol["st_size"])
        self.cpu.hook_add(unicorn.UC_HOOK_INSN_INVALID, lambda _, __: self.step())

    def hand_over(self, start, size):
        """Unicorn takes VEX instructions for their SSE ancestors: they become invalid ones (ud2), so that they come here as well."""
        for instruction in self.disassembler.disasm(bytes(self.cpu.mem_read(start, size)), start):
            if instruction.bytes[0] in (0xC4, 0xC5):
                self.decoded[instruction.address] = instruction
                self.cpu.mem_write(instruction.address, b"\x0f\x0b")

    def vector(self, instruction, operand):
        """Number and length of a vector register."""
        kind, number = re.fullmatch(r"([xyz])mm(\d+)", instruction.reg_name(operand.reg)).groups()
        return int(number), {"x": 4, "y": 8, "z": 16}[kind]

    def address(self, instruction, memory):
        def value(register):
            name = instruction.reg_name(register)
            if name == "rip":
                return instruction.address + instruction.size
            return self.cpu.reg_read(getattr(registers, f"UC_X86_REG_{name.upper()}"))

        at = memory.disp + (value(memory.base) if memory.base else 0)
        return (at + (value(memory.index) * memory.scale if memory.index else 0)) & (2**64 - 1)

    def read(self, instruction, operand, lanes):
        """Values of a register or of memory."""
        if operand.type == X86_OP_REG:
            return self.vectors[self.vector(instruction, operand)[0]][:lanes].copy()
        at = self.address(instruction, operand.mem)
        self.accesses.append((at, 4 * lanes, False))
        return np.frombuffer(self.cpu.mem_read(at, 4 * lanes), np.float32)

    def step(self):
        """One vector instruction."""
        at = self.cpu.reg_read(registers.UC_X86_REG_RIP)
        if at not in self.decoded:
            self.decoded[at] = next(self.disassembler.disasm(bytes(self.cpu.mem_read(at, 15)), at))
        instruction = self.decoded[at]
        name, operands = instruction.mnemonic, instruction.operands
        self.counts[name] = self.counts.get(name, 0) + 1
        if name == "vzeroupper":
            self.vectors[:16, 4:] = 0
        elif name in MOVES and operands[0].type == X86_OP_MEM:
            _, lanes = self.vector(instruction, operands[1])
            to = self.address(instruction, operands[0].mem)
            self.accesses.append((to, 4 * lanes, True))
            self.cpu.mem_write(to, self.read(instruction, operands[1], lanes).tobytes())
        else:
            number, lanes = self.vector(instruction, operands[0])
            if name in MOVES:
                result = self.read(instruction, operands[1], lanes)
            elif name == "vbroadcastss":
                result = np.full(lanes, self.read(instruction, operands[1], 1)[0])
            elif name == "vfmadd231ps":
                x, y = (self.read(instruction, operand, lanes) for operand in operands[1:])
                result = fused(x, y, self.vectors[number][:lanes])
            elif name == "vaddps":
                result = self.read(instruction, operands[1], lanes) + self.read(instruction, operands[2], lanes)
            elif name in ZEROS and operands[1].reg == operands[2].reg:
                result = np.zeros(lanes, np.float32)
            else:
                sys.exit(f"{at - PROGRAM:x}: {name} {instruction.op_str}: this script does not know that instruction")
            self.vectors[number] = 0
            self.vectors[number][:lanes] = result
        self.cpu.reg_write(registers.UC_X86_REG_RIP, at + instruction.size)
        return True

    def call(self, tile, count, a_step):
        """`avx512_strip(tile, count, a_step)`."""
        stack = STACK + STACK_SIZE // 2 - 8
        self.cpu.mem_write(stack, struct.pack("<Q", RETURN))
        for name, value in (("RSP", stack), ("RDI", tile), ("RSI", count), ("RDX", a_step)):
            self.cpu.reg_write(getattr(registers, f"UC_X86_REG_{name}"), value)
        self.accesses.clear()
        self.cpu.emu_start(self.strip, RETURN)


def check(machine, random, layout, k, start):
    """Whether a strip of tiles has the expected bits and touches nothing but its operands."""
    numbers = lambda *shape: random.standard_normal(shape).astype(np.float32)
    machine.vectors[:] = numbers(32, 16)
    rows, row = TILES * ROWS, COLUMNS + 7
    a, b, c, other = numbers(rows, k), numbers(k, COLUMNS), numbers(rows, row), numbers(rows, row + 3)
    if layout == "rows":
        left, a_row, a_col, a_step = a, k, 1, ROWS * k
    elif layout == "columns":
        left, a_row, a_col, a_step = np.pad(a.T, ((0, 0), (0, 5))).copy(), 1, rows + 5, ROWS
    else:
        left, a_row, a_col, a_step = a.reshape(TILES, ROWS, k).transpose(0, 2, 1).copy(), 1, ROWS, ROWS * k
    tile, places = HEAP + 64, [HEAP + (16 << 20) * i + 4096 + 4 * i for i in range(4)]
    operands = list(zip(places, (left, b, c, other)))
    for at, matrix in operands:
        machine.cpu.mem_write(at, matrix.tobytes())
    init, init_row = {"zero": (0, 0), "same": (places[2], row), "other": (places[3], row + 3)}[start]
    values = dict(k=k, a=places[0], a_row=a_row, a_col=a_col, b=places[1], c=places[2], c_row=row, init=init, init_row=init_row,
                  ahead=places[1] + b.nbytes, pace=3)
    machine.cpu.mem_write(tile, b"".join(struct.pack("<Q", values[field]) for field in FIELDS))
    machine.call(tile, TILES, a_step)
    sums = np.zeros((rows, COLUMNS), np.float32)
    for p in range(k):
        sums = fused(np.repeat(a[:, p : p + 1], COLUMNS, 1), np.broadcast_to(b[p], sums.shape), sums)
    want = c.copy()
    want[:, :COLUMNS] = sums + {"zero": np.float32(0), "same": c[:, :COLUMNS], "other": other[:, :COLUMNS]}[start]
    got = np.frombuffer(machine.cpu.mem_read(places[2], c.nbytes), np.float32).reshape(c.shape)
    readable = [(at, at + matrix.nbytes) for at, matrix in operands] + [(tile, tile + 8 * len(FIELDS)), (STACK, STACK + STACK_SIZE)]
    writable = [(places[2], places[2] + c.nbytes), (STACK, STACK + STACK_SIZE)]
    inside = all(any(low <= at and at + size <= high for low, high in (writable if store else readable))
                 for at, size, store in machine.accesses if at < PROGRAM or at >= HEAP)
    return np.array_equal(got, want) and inside


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    machine, random, tried, wrong = Machine(sys.argv[1]), np.random.default_rng(1), 0, 0
    for layout in ("rows", "columns", "packed"):
        for k in (1, 2, 3, 4, 5, 7, 8, 23, 47, 48, 49, 50, 51, 64, 96, 101, 384):
            for start in ("zero", "same", "other"):
                tried += 1
                if not check(machine, random, layout, k, start):
                    wrong += 1
                    print(f"A in {layout}, depth {k}, start {start}: the tile differs, or something outside was touched")
    print(f"{tried} strips of {TILES} tiles, {wrong} wrong; instructions: {machine.counts}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
