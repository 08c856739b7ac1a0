//! Levels lend each other seats (KEP-1040, "dispatching and borrowing"): what a level did not need in the last period
//! others may use in the next, up to what each of them may lend and borrow.

use std::sync::Arc;

use super::level::Level;

/// How much of the last period's demand is forgotten in the next; a level asks for more at once, and for less slowly.
const FORGOTTEN: f64 = 0.023;

/// What a level can have and wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) least: f64,
    pub(super) most: f64,
    pub(super) target: f64,
}

/// Looks at what each level needed, and shares the seats out anew.
pub(super) fn adjust(levels: &[&Arc<Level>], seats: u32) {
    let limited: Vec<&&Arc<Level>> = levels.iter().filter(|level| !level.is_exempt()).collect();
    let wishes: Vec<Wish> = limited
        .iter()
        .map(|level| {
            level.adjust(|state| {
                let peak = f64::from(std::mem::take(&mut state.peak));
                state.demand = peak.max(state.demand + (peak - state.demand) * FORGOTTEN);
                // Nobody lends what they needed themselves.
                let least = f64::from(state.least).max(peak.min(f64::from(state.nominal)));
                Wish { least, most: f64::from(state.most), target: state.demand.max(least) }
            })
        })
        .collect();
    let nominal: u32 = limited.iter().map(|level| level.adjust(|state| state.nominal)).sum();
    let shares = allocate(&wishes, f64::from(nominal.max(seats)));
    for (level, share) in limited.iter().zip(shares) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and the seats")]
        let limit = share.round() as u32;
        level.adjust(|state| state.limit = limit);
    }
}

/// Each level's target times one factor for all, within what each can have: so that all together have `total`.
pub(super) fn allocate(wishes: &[Wish], total: f64) -> Vec<f64> {
    let at = |factor: f64| wishes.iter().map(move |w| (w.target.max(0.5) * factor).clamp(w.least, w.most.max(w.least)));
    let sum = |factor: f64| at(factor).sum::<f64>();
    let (mut low, mut high) = (0.0, 1.0);
    while sum(high) < total && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..64 {
        let middle = f64::midpoint(low, high);
        if sum(middle) < total {
            low = middle;
        } else {
            high = middle;
        }
    }
    at(low).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_needs_more_borrows_what_others_lend() {
        let wish = |least: f64, most: f64, target: f64| Wish { least, most, target };
        let shares = allocate(&[wish(10.0, 600.0, 200.0), wish(50.0, 600.0, 50.0), wish(20.0, 30.0, 500.0)], 200.0);
        assert!((shares.iter().sum::<f64>() - 200.0).abs() < 0.01);
        assert!(shares[0] > 100.0 && shares[1] >= 50.0 && (shares[2] - 30.0).abs() < 0.01, "{shares:?}");
        let all = allocate(&[wish(1.0, 5.0, 1.0), wish(1.0, 5.0, 1.0)], 100.0);
        assert!(all.iter().all(|s| (s - 5.0).abs() < 0.01), "nobody has more than they can: {all:?}");
    }
}
