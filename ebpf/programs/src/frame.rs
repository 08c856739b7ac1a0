//! A packet's bytes, as a hook has them: before the kernel made a packet of them ([`XdpContext`]) or after ([`TcContext`]).
//! Parsing and translation are written once, over this.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_F_MARK_MANGLED_0;
use aya_ebpf::helpers::bpf_csum_update;
use aya_ebpf::programs::{TcContext, XdpContext};
use xebec_ebpf_layout::DropReason;

use crate::nat::{self, fold16, fold32};

/// See above.
pub trait Frame {
    /// Reads at `offset`; `None` if the packet is shorter.
    fn read<T: Copy>(&self, offset: usize) -> Option<T>;

    /// Writes at `offset`.
    fn write<T: Copy>(&self, offset: usize, value: &T) -> Result<(), DropReason>;

    /// Adds `change` to the layer 4 checksum at `offset`. `flags` are those of `bpf_l4_csum_replace`.
    fn adjust_l4(&self, offset: usize, change: u64, flags: u32) -> Result<(), DropReason>;

    /// Says that the packet's bytes have changed by so much, to who has their sum from the network card.
    fn adjust_sum(&self, change: u64);
}

impl Frame for TcContext {
    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        self.load(offset).ok()
    }

    #[inline(always)]
    fn write<T: Copy>(&self, offset: usize, value: &T) -> Result<(), DropReason> {
        nat::store(self, offset, value)
    }

    #[inline(always)]
    fn adjust_l4(&self, offset: usize, change: u64, flags: u32) -> Result<(), DropReason> {
        nat::replace_l4(self, offset, change, flags)
    }

    #[inline(always)]
    fn adjust_sum(&self, change: u64) {
        // SAFETY: the context the kernel gave us. Where there is no sum, the helper says so, and that is that.
        unsafe { bpf_csum_update(self.as_ptr().cast(), fold32(change)) };
    }
}

/// What of a packet is looked at here lies before this; so the verifier knows the end of every offset.
const FARTHEST: usize = 128;

/// Packets begin at even addresses and their headers have even lengths, no more is certain.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Even<T: Copy>(T);

/// Where a value of this type is in the packet.
#[inline(always)]
fn place<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<*mut Even<T>> {
    if offset > FARTHEST {
        return None;
    }
    let start = ctx.data() + offset;
    (start + size_of::<T>() <= ctx.data_end()).then_some(start as *mut Even<T>)
}

impl Frame for XdpContext {
    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        // SAFETY: within the packet, which is ours while the program runs; `T`s are plain bytes.
        place(self, offset).map(|place| unsafe { (*place).0 })
    }

    #[inline(always)]
    fn write<T: Copy>(&self, offset: usize, value: &T) -> Result<(), DropReason> {
        let place = place(self, offset).ok_or(DropReason::RewriteFailed)?;
        // SAFETY: as for reading.
        unsafe { *place = Even(*value) };
        Ok(())
    }

    #[inline(always)]
    fn adjust_l4(&self, offset: usize, change: u64, flags: u32) -> Result<(), DropReason> {
        let old: u16 = self.read(offset).ok_or(DropReason::RewriteFailed)?;
        let zero_is_none = flags & BPF_F_MARK_MANGLED_0 as u32 != 0;
        if zero_is_none && old == 0 {
            return Ok(());
        }
        let new = !fold16(u64::from(!u32::from(old)) + change);
        self.write(offset, &if zero_is_none && new == 0 { 0xffff } else { new })
    }

    #[inline(always)]
    fn adjust_sum(&self, _change: u64) {}
}
