//! Where this processor keeps each piece of extended state: CPUID leaf 0xD (Intel SDM, volume 1, chapter 13).

use std::arch::x86_64::__cpuid_count;

/// Offset and size in bytes of a component in XSAVE's standard format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// From the start of the area.
    pub offset: usize,
    /// In bytes.
    pub size: usize,
}

/// The component numbers that CRIU's images know.
pub mod component {
    #![expect(missing_docs, reason = "the names of the Intel SDM")]
    pub const YMM: u32 = 2;
    pub const BNDREGS: u32 = 3;
    pub const BNDCSR: u32 = 4;
    pub const OPMASK: u32 = 5;
    pub const ZMM_HI256: u32 = 6;
    pub const HI16_ZMM: u32 = 7;
    pub const PKRU: u32 = 9;
    pub const CET_USER: u32 = 11;
    pub const TILECFG: u32 = 17;
    pub const TILEDATA: u32 = 18;
}

/// Where component `number` lies, or `None` when this processor lacks it.
pub fn xsave_component(number: u32) -> Option<Component> {
    let leaf = __cpuid_count(0xd, number);
    (leaf.eax != 0 && leaf.ebx != 0).then_some(Component {
        offset: leaf.ebx as usize,
        size: leaf.eax as usize,
    })
}

/// The user state components that the system enabled (XCR0) or that the processor supports at most.
pub fn xsave_features() -> u64 {
    let leaf = __cpuid_count(0xd, 0);
    u64::from(leaf.eax) | (u64::from(leaf.edx) << 32)
}
