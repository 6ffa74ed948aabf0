//! Instructions of BPF programs (Documentation/bpf/standardization/instruction-set.rst), and the helpers that more than
//! one program calls.

/// One instruction, in the kernel's layout.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum R {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    /// The frame pointer.
    R10,
}

/// Helpers, by their numbers in linux/bpf.h.
pub(crate) const MAP_LOOKUP_ELEM: i32 = 1;
pub(crate) const SK_RELEASE: i32 = 86;

/// Has jumps with these placeholders go to these instructions.
pub(crate) fn set_jumps(code: &mut [Instruction], targets: &[(i16, usize)]) {
    for (at, instruction) in code.iter_mut().enumerate() {
        let target = targets
            .iter()
            .find(|(label, _)| *label == instruction.offset);
        if let Some((_, to)) = target {
            // A jump counts from the instruction behind it. Programs have some two hundred.
            instruction.offset = i16::try_from(to - at - 1).unwrap_or(0);
        }
    }
}

const fn instruction(code: u8, to: R, from: R, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to as u8 | ((from as u8) << 4),
        offset,
        immediate,
    }
}

/// `BPF_ALU64 | BPF_MOV | BPF_X`
pub(crate) const fn copy(to: R, from: R) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

/// `BPF_ALU64 | BPF_MOV | BPF_K`
pub(crate) const fn set(to: R, value: i32) -> Instruction {
    instruction(0xb7, to, R::R0, 0, value)
}

/// `BPF_ALU64 | BPF_ADD | BPF_K`
pub(crate) const fn add(to: R, value: i32) -> Instruction {
    instruction(0x07, to, R::R0, 0, value)
}

/// `BPF_LDX | BPF_MEM | BPF_W`
pub(crate) const fn load32(to: R, from: R, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}

/// `BPF_STX | BPF_MEM | BPF_H`
pub(crate) const fn store16(to: R, offset: i16, from: R) -> Instruction {
    instruction(0x6b, to, from, offset, 0)
}

/// `BPF_STX | BPF_MEM | BPF_W`
pub(crate) const fn store32(to: R, offset: i16, from: R) -> Instruction {
    instruction(0x63, to, from, offset, 0)
}

/// `BPF_STX | BPF_MEM | BPF_DW`
pub(crate) const fn store64(to: R, offset: i16, from: R) -> Instruction {
    instruction(0x7b, to, from, offset, 0)
}

/// `BPF_STX | BPF_ATOMIC | BPF_DW` with `BPF_ADD`
pub(crate) const fn add_atomically64(to: R, offset: i16, from: R) -> Instruction {
    instruction(0xdb, to, from, offset, 0)
}

/// `BPF_JMP | BPF_JA`
pub(crate) const fn jump(offset: i16) -> Instruction {
    instruction(0x05, R::R0, R::R0, offset, 0)
}

/// `BPF_JMP | BPF_JEQ | BPF_K`
pub(crate) const fn jump_if_equal(of: R, value: i32, offset: i16) -> Instruction {
    instruction(0x15, of, R::R0, offset, value)
}

/// `BPF_JMP | BPF_JNE | BPF_K`
pub(crate) const fn jump_unless_equal(of: R, value: i32, offset: i16) -> Instruction {
    instruction(0x55, of, R::R0, offset, value)
}

/// `BPF_JMP | BPF_CALL`
pub(crate) const fn call(helper: i32) -> Instruction {
    instruction(0x85, R::R0, R::R0, 0, helper)
}

/// `BPF_JMP | BPF_EXIT`
pub(crate) const fn exit() -> Instruction {
    instruction(0x95, R::R0, R::R0, 0, 0)
}

/// `BPF_LD | BPF_DW | BPF_IMM` with `BPF_PSEUDO_MAP_FD`: a map, of two instructions.
pub(crate) const fn map(to: R, descriptor: i32) -> [Instruction; 2] {
    [
        instruction(0x18, to, R::R1, 0, descriptor),
        instruction(0, R::R0, R::R0, 0, 0),
    ]
}

/// `BPF_ALU64 | BPF_AND | BPF_K`
pub(crate) const fn and(to: R, value: i32) -> Instruction {
    instruction(0x57, to, R::R0, 0, value)
}

/// `BPF_ALU64 | BPF_LSH | BPF_K`
pub(crate) const fn shift_left(to: R, by: i32) -> Instruction {
    instruction(0x67, to, R::R0, 0, by)
}

/// `BPF_ALU | BPF_END | BPF_TO_BE`: from or to network byte order.
pub(crate) const fn swap32(of: R) -> Instruction {
    instruction(0xdc, of, R::R0, 0, 32)
}

/// `BPF_LDX | BPF_MEM | BPF_B`
pub(crate) const fn load8(to: R, from: R, offset: i16) -> Instruction {
    instruction(0x71, to, from, offset, 0)
}

/// `BPF_LDX | BPF_MEM | BPF_H`
pub(crate) const fn load16(to: R, from: R, offset: i16) -> Instruction {
    instruction(0x69, to, from, offset, 0)
}

/// `BPF_LDX | BPF_MEM | BPF_DW`
pub(crate) const fn load64(to: R, from: R, offset: i16) -> Instruction {
    instruction(0x79, to, from, offset, 0)
}

/// `BPF_STX | BPF_MEM | BPF_B`
pub(crate) const fn store8(to: R, offset: i16, from: R) -> Instruction {
    instruction(0x73, to, from, offset, 0)
}

/// `BPF_JMP | BPF_JEQ | BPF_X`
pub(crate) const fn jump_if_same(of: R, other: R, offset: i16) -> Instruction {
    instruction(0x1d, of, other, offset, 0)
}

/// `BPF_JMP | BPF_JGT | BPF_K`, unsigned
pub(crate) const fn jump_if_greater(of: R, value: i32, offset: i16) -> Instruction {
    instruction(0x25, of, R::R0, offset, value)
}

/// `BPF_JMP | BPF_JGT | BPF_X`, unsigned
pub(crate) const fn jump_if_greater_than(of: R, other: R, offset: i16) -> Instruction {
    instruction(0x2d, of, other, offset, 0)
}

/// `BPF_ALU64 | BPF_ADD | BPF_X`
pub(crate) const fn add_register(to: R, other: R) -> Instruction {
    instruction(0x0f, to, other, 0, 0)
}

/// `BPF_ALU64 | BPF_SUB | BPF_X`
pub(crate) const fn subtract_register(from: R, other: R) -> Instruction {
    instruction(0x1f, from, other, 0, 0)
}

/// `BPF_ALU | BPF_ADD | BPF_X`: the lower halves, modulo 2^32. The upper half is 0 then.
pub(crate) const fn add_register32(to: R, other: R) -> Instruction {
    instruction(0x0c, to, other, 0, 0)
}

/// `BPF_ALU | BPF_SUB | BPF_X`: the same.
pub(crate) const fn subtract_register32(from: R, other: R) -> Instruction {
    instruction(0x1c, from, other, 0, 0)
}

/// Whether each jump goes to an instruction of the program.
#[cfg(test)]
pub(crate) fn has_good_jumps(code: &[Instruction]) -> bool {
    let is_jump = |it: &Instruction| matches!(it.code, 0x05 | 0x15 | 0x1d | 0x25 | 0x2d | 0x55);
    let jumps = code.iter().enumerate().filter(|(_, it)| is_jump(it));
    let mut targets = jumps.map(|(at, it)| usize::try_from(it.offset).map(|by| at + 1 + by));
    targets.all(|to| to.is_ok_and(|to| code.get(to).is_some_and(|it| it.code != 0)))
}
