//! Maglev's consistent hashing: every node, by itself, sends a client to the same backend.
//!
//! From Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4: each backend
//! has its own order of the slots, and takes turns in claiming the first that is free. When one goes, few slots but its own
//! change hands.

use super::desired::BackendAddress;

/// The number of slots of a table: a power of two (so that an odd step visits all), at least 25 a backend where that is affordable. Few
/// sizes, since a change of size moves everybody.
pub fn size(backends: usize) -> usize {
    const SIZES: [(usize, usize); 5] = [(1, 1), (5, 128), (20, 512), (80, 2_048), (320, 8_192)];
    const LARGEST: usize = 32_768;
    SIZES
        .iter()
        .find(|(most, _)| backends <= *most)
        .map_or(LARGEST, |(_, size)| *size)
        .max(backends.next_power_of_two())
}

/// The place in `backends` (sorted, without repetition) that each slot leads to.
pub fn table(backends: &[BackendAddress]) -> Vec<u32> {
    if backends.is_empty() {
        return Vec::new();
    }
    let size = size(backends.len());
    let mask = size as u64 - 1;
    let mut next: Vec<(u64, u64)> = backends
        .iter()
        .map(|backend| {
            let hash = hash(backend);
            (hash & mask, ((hash >> 32) & mask) | 1)
        })
        .collect();
    let mut slots = vec![u32::MAX; size];
    let mut free = size;
    loop {
        for (index, (place, step)) in next.iter_mut().enumerate() {
            while slots[*place as usize] != u32::MAX {
                *place = (*place + *step) & mask;
            }
            slots[*place as usize] = index as u32;
            free -= 1;
            if free == 0 {
                return slots;
            }
        }
    }
}

/// FNV-1a over address and port, mixed: the same on every node and in every version.
fn hash(backend: &BackendAddress) -> u64 {
    let bytes = backend.addr.octets().into_iter().chain(backend.port.get().to_be_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use xebec_ebpf_loader::layout::Port;

    use super::*;

    fn backends(count: u32) -> Vec<BackendAddress> {
        (0..count)
            .map(|i| BackendAddress { addr: Ipv4Addr::from(0x0af4_0000 + i * 7).into(), port: Port::new(8_080) })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Each backend has its share of the slots, but for one.
        #[test]
        fn slots_are_shared_evenly(count in 1_u32..400) {
            let table = table(&backends(count));
            let mut shares = vec![0_usize; count as usize];
            table.iter().for_each(|slot| shares[*slot as usize] += 1);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{least} to {most}");
        }

        /// When one goes, few of the others' slots change hands.
        #[test]
        fn one_that_goes_moves_little_else(count in 3_u32..60, gone in 0_u32..60) {
            let all = backends(count);
            let gone = all[(gone % count) as usize];
            let rest: Vec<_> = all.iter().copied().filter(|b| *b != gone).collect();
            let (before, after) = (table(&all), table(&rest));
            // At these counts the table's size changes too, and everybody moves.
            prop_assume!(before.len() == after.len());
            let kept = before.iter().zip(&after).filter(|(b, _)| all[**b as usize] != gone);
            let moved = kept.clone().filter(|(b, a)| all[**b as usize] != rest[**a as usize]).count();
            prop_assert!(moved * 3 < kept.count(), "{moved} of {} moved", before.len());
        }
    }
}
